"""API keys of tests, and the files that hold them."""

from pipeline.query.keys import digest_of

KEYS = {name: f"cs_{name}" for name in ("one", "two", "nocalls")}


def digest(name: str) -> str:
    return digest_of(KEYS[name].encode())


def keys_toml(*names: str, **more: str) -> str:
    return "".join(f'[keys.{name}]\nsha256 = "{digest(name)}"\n{more.get(name, "")}\n' for name in names)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}
