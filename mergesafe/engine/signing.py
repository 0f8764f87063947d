"""Signatures of merged models, in the form of OpenSSF model signing.

A signature names the SHA-256 of every file of the folder and is made with an elliptic-curve key. It
says who vouches for the model; the manifest alone says only that it is what some merge wrote, and
whoever changes a model can write another manifest. Any tool of that form verifies it too
(``model_signing verify key OUT --signature OUT/model.sig --public_key KEY``).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from mergesafe.engine.verify import VerificationError
from mergesafe.errors import ArgumentError, OutputError
from mergesafe.extras import install
from mergesafe.regular_file import read_regular
from mergesafe.untrusted import show

#: Where a signature lies, as the tools of that form expect it.
SIGNATURE: Final = "model.sig"
#: Bytes.
_LARGEST_KEY: Final = 1 << 20


def sign(folder: Path, key: Path, password: str | None = None) -> Path:
    """Sign the model in ``folder`` and say where the signature lies, ``model.sig`` in it.

    Args:
        folder: a model; what a merge wrote is verified before, by the caller.
        key: a private elliptic-curve key in PEM.
        password: of the key, where it has one.

    Raises:
        ArgumentError: the key cannot be used, the package model-signing is missing, or a symbolic
            link is in the folder.
        OutputError: the signature cannot be written.
    """
    signing, hashing = _package("signing"), _package("hashing")
    out = folder / SIGNATURE
    # The package hands a password on as it is, to a reader of keys that takes bytes.
    secret = None if password is None else password.encode()
    try:
        read_regular(key, _LARGEST_KEY)
        config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    except Exception as error:  # of whatever kind that a key's reader raises
        raise ArgumentError(
            f"{key}: cannot be used to sign ({_short(error)}); expected a private elliptic-curve "
            "key in PEM, as 'openssl ecparam -name prime256v1 -genkey -noout' makes it"
        ) from None
    link = next((each for each in folder.rglob("*") if each.is_symlink()), None)
    if link is not None:
        raise ArgumentError(
            f"{link}: is a symbolic link, and a signature is of files alone; put the file itself "
            "there, or remove it"
        )
    config.set_hashing_config(_hashing(hashing, folder))
    # Beside the old one, which stays until the new one is whole.
    begun = out.with_name(f".{SIGNATURE}.{os.getpid()}")
    try:
        config.sign(folder.resolve(), begun)
        os.replace(begun, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        begun.unlink(missing_ok=True)
    return out


def check_signature(folder: Path, public_key: Path, signature: Path | None = None) -> None:
    """Check that ``signature`` is of the model in ``folder`` and of the key's other half.

    Raises:
        ArgumentError: the key cannot be used, or the package model-signing is missing.
        VerificationError: there is no signature, or it is of another key or another model.
    """
    verifying, hashing = _package("verifying"), _package("hashing")
    given = signature or folder / SIGNATURE
    if not given.is_file():
        raise VerificationError(f"{folder}: there is no signature at {given}")
    try:
        read_regular(public_key, _LARGEST_KEY)
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:
        raise ArgumentError(
            f"{public_key}: cannot be used to verify ({_short(error)}); expected a public "
            "elliptic-curve key in PEM"
        ) from None
    config.set_hashing_config(_hashing(hashing, folder, given))
    try:
        config.verify(folder.resolve(), given)
    except Exception as error:  # a wrong key, a wrong file and a damaged signature raise all kinds
        raise VerificationError(
            f"{folder}: the signature {given} does not hold by {public_key}: {_short(error)}"
        ) from None


def _hashing(hashing: Any, folder: Path, *more: Path) -> Any:
    """Every file of the folder but the signature, and what git keeps there (``.gitattributes``).

    The package takes a path that is not absolute as one within the folder.
    """
    within = [folder / SIGNATURE, folder / f".{SIGNATURE}.{os.getpid()}", *more]
    ignored = [each.parent.resolve() / each.name for each in within]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)


def _package(module: str) -> Any:
    if find_spec("model_signing") is None:
        raise ArgumentError(f"signatures need the package model-signing: {install('sign')}")
    from importlib import import_module

    return import_module(f"model_signing.{module}")


def _short(error: Exception) -> str:
    return show(" ".join(str(error).split()) or type(error).__name__)[:300]
