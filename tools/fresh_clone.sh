#!/usr/bin/env bash
# Proves that HEAD works for a newcomer: clones it into an empty folder with empty caches and times make demo, make demo again,
# and with --test make test. HOME stays, so that pip's, npm's and Maven's own configuration applies.
set -euo pipefail

repo=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
work=$(mktemp -d "${TMPDIR:-/tmp}/callstream-fresh.XXXXXX")
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work/cache" PIP_CACHE_DIR="$work/pip" UV_CACHE_DIR="$work/uv" npm_config_cache="$work/npm"
# Maven before 3.9 does not read MAVEN_ARGS; MAVEN_OPTS reaches every version as a system property.
export MAVEN_OPTS="${MAVEN_OPTS:-} -Dmaven.repo.local=$work/m2"
unset CALLSTREAM_CACHE_DIR CALLSTREAM_BROKER VIRTUAL_ENV MAKEFLAGS MAKELEVEL MFLAGS

timed() { # what it is, then the command
  local what=$1 begin status=0
  shift
  begin=$(date +%s)
  "$@" </dev/null || status=$?
  echo "fresh clone: $what: $(($(date +%s) - begin)) s, exit $status"
  return "$status"
}

git clone --quiet "$repo" "$work/clone"
cd "$work/clone"
echo "fresh clone: $(git log -1 --format='%h %s')"
timed "make demo, nothing cached" make demo
timed "make demo, second time" make demo
if [ "${1:-}" = --test ]; then timed "make test" make test; fi
