#!/usr/bin/env bash
# Installs what callstream needs of the system where apt-get may be used; else names what is missing in one line.
#   system_packages.sh           Java 17+ and Maven (the embedded broker), npm (the language model)
#   system_packages.sh python    a Python 3.11-3.13 with venv
#   system_packages.sh tests     libfaketime, ip, mount and patch (fault tests; those that lack theirs skip)
# libsndfile is not among them: soundfile's wheels bring their own.
set -euo pipefail
cd "$(dirname "$0")"

java_major() { # the feature release of JAVA_HOME's or PATH's Java; its release file tells it without starting it
  local java release version=""
  java=$(command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" || command -v java) || return 1
  release="$(dirname "$(dirname "$(readlink -f "$java")")")/release"
  [ ! -r "$release" ] || version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$release")
  [ -n "$version" ] || version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  echo "${version:-0}"
}

missing() { # one wanted thing a line
  if [ "${1:-}" = python ]; then
    ./find_python.sh >/dev/null 2>&1 || echo python
    return
  fi
  if [ "${1:-}" = tests ]; then
    compgen -G "/usr/lib/*/faketime/libfaketime.so.1" >/dev/null || echo faketime
    command -v ip >/dev/null || echo iproute2
    command -v mount >/dev/null || echo mount
    command -v patch >/dev/null || echo patch
    return
  fi
  [ "$(java_major || echo 0)" -ge 17 ] || echo java
  command -v mvn >/dev/null || echo maven
  command -v npm >/dev/null || echo npm
}

package() { # the Debian package that brings a wanted thing
  local python
  case $1 in
    java) if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then echo openjdk-17-jre-headless; else echo default-jre-headless; fi ;;
    python)
      if python=$(./find_python.sh --without-venv 2>/dev/null); then
        "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
      else
        echo python3 python3-venv
      fi ;;
    *) echo "$1" ;;
  esac
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

install() { # wanted things, by apt-get
  local packages=() thing
  command -v apt-get >/dev/null && as_root true 2>/dev/null || return 1
  as_root apt-get update -qq || echo "callstream: apt-get update failed; trying with the package lists that are here" >&2
  for thing in "$@"; do
    # shellcheck disable=SC2207 # package names hold no spaces
    packages+=($(package "$thing"))
  done
  echo "callstream: installing ${packages[*]} (apt-get)"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "${packages[@]}" >/dev/null
}

mapfile -t wanted < <(missing "${1:-}")
[ ${#wanted[@]} -gt 0 ] || exit 0
install "${wanted[@]}" || true
mapfile -t wanted < <(missing "${1:-}")
[ ${#wanted[@]} -gt 0 ] || exit 0

names=$(printf ", %s" "${wanted[@]}")
names=${names:2}
names=${names//java/Java 17 or newer (java)}
names=${names//maven/Maven (mvn)}
names=${names//python/Python 3.11-3.13 with venv}
if [ "${1:-}" = python ]; then
  echo "callstream: missing and not installable here: $names; install it and run make again" >&2
  exit 1
fi
if [ "${1:-}" = tests ]; then
  echo "callstream: missing and not installable here: $names; the fault tests that need them skip" >&2
  exit 0
fi
# Not fatal: without Java or Maven there is the in-memory broker, and models may be in the cache already.
echo "callstream: missing and not installable here: $names; please install, going on without" >&2
