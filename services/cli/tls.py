"""`tls init|show|renew`: the hive's own authority and the certificate that it serves. Done in the data folder."""

import time
from typing import TYPE_CHECKING

import click

from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from infra.certificates import Served
    from infra.folder import Folder

SOON = "a hive that runs takes it within seconds, and no connection ends"


@click.group("tls")
def tls() -> None:
    """Certificates for connections that leave this machine."""


@command("init", listing=False, remote=False)
@click.option("--name", "names", multiple=True, metavar="HOST", help="A hostname or address it is reached at; several.")
def init(context: Context, names: tuple[str, ...]) -> None:
    """Make an authority for this hive, unless it has one, and a certificate for the names.

    This machine's local names are in it, too. Done again with other names, only the certificate changes: who trusts the
    authority need not be told. The hive takes it at its next start, and renews it by itself.
    """
    from infra import certificates

    folder = _folder(context)
    began = certificates.exist(folder)
    if began and not names and (found := certificates.look(folder)) is not None:
        _show(context, found)
        context.output.note(
            "nothing made: these are there. `--name HOST` for other names, `hivectl tls renew` for a new key"
        )
        return
    _show(context, certificates.make(folder, names, time.time()))
    settings = "taken at the next start of the hive" if not began else SOON
    context.output.note(f"made: {settings}. Others reach it when `host` and `nats_host` are set; see docs/deploy.md")


@command("show", remote=False)
def show(context: Context) -> None:
    """Show what is served: names, end, and the fingerprint that workers pin."""
    from infra import certificates

    found = certificates.look(context.folder())
    if found is None:
        raise Failure(
            f"there are no certificates in {context.folder().path('tls')}",
            "make them with `hivectl tls init --name HOST`", Exit.REFUSED,
        )  # fmt: skip
    if context.output.mode == "quiet":
        context.output.line(found.fingerprint)
        return
    if context.output.mode == "json":
        context.output.document(
            {
                "file": str(found.file),
                "fingerprint": found.fingerprint,
                "names": list(found.names),
                "begins_at": found.begins_s * 1000,
                "ends_at": found.ends_s * 1000,
                "own": found.own,
            }
        )
        return
    _show(context, found)


@command("renew", listing=False, remote=False)
def renew(context: Context) -> None:
    """Make a new certificate for the same names, by the same authority.

    The hive does so by itself when a third of the time is left; this is for a key that somebody may have seen.
    """
    from infra import certificates

    _show(context, certificates.renew(_folder(context), time.time()))
    context.output.note(f"renewed: {SOON}")


def _folder(context: Context) -> "Folder":
    """The data folder, whose certificate is the hive's own to make."""
    from infra.settings import load

    folder = context.folder()
    if file := load(folder.root).tls_cert_file:
        raise Failure(f"the hive serves your own certificate, {file}", "replace its files: the hive takes them at once")
    return folder


def _show(context: Context, served: "Served") -> None:
    whose = "your own (`tls_cert_file`)" if served.own else "made by this hive's authority"
    facts = [
        ("Certificate", f"{whose}, in {served.file}"),
        ("Names", ", ".join(served.names)),
        ("Ends", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(served.ends_s))),
    ]
    if served.ca:
        facts.append(("Fingerprint", served.fingerprint))
        if not served.own:
            facts.append(("Authority", f"{served.file.with_name('ca.pem')} (HIVE_CA for others' hivectl)"))
    else:
        facts.append(("Authority", "one that every system knows"))
    context.output.facts(facts)


for one in (init, show, renew):
    tls.add_command(one)

COMMANDS = {"tls": tls}
