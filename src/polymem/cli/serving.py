"""`polymem serve`: the server, and what it tells the person who started it."""

import asyncio
import contextlib
import gc
import shlex
import sys

import typer

from polymem.bootstrap import FirstKey, ServerRecord, begin_loading_model
from polymem.cli.logs import configure_logging
from polymem.cli.options import with_settings
from polymem.cli.output import say
from polymem.config import Loaded, Settings

_EXAMPLE = '{"content":"The build server is called Marvin","sync":true}'


def add_to(app: typer.Typer) -> None:
    """The app has the command."""
    app.command("serve")(with_settings(_serve))


def _serve(loaded: Loaded) -> None:
    """Serve until Ctrl-C or SIGTERM. The first start makes a key and tells it."""
    settings = loaded.settings
    model = begin_loading_model(settings)
    gc.disable()  # until the server stands: see `serve`

    import uvloop  # noqa: PLC0415 - only the server needs the web stack, and other commands should start at once

    from polymem.bootstrap.serving import Serving, serve  # noqa: PLC0415 - the same

    configure_logging(settings)

    def announce(serving: Serving) -> None:
        # A reader that has gone away (`polymem serve | head -1`) is no reason to stop.
        with contextlib.suppress(BrokenPipeError):
            say("\n".join(greeting(serving.record, serving.key, serving.degraded, settings)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, announce, model))


def greeting(
    record: ServerRecord,
    key: FirstKey,
    degraded: tuple[str, ...],
    settings: Settings,
    *,
    is_terminal: bool | None = None,
) -> list[str]:
    """What a person needs to begin; the secret itself only when it is new and a terminal shows it."""
    shows_secret = sys.stdout.isatty() if is_terminal is None else is_terminal
    lines = [f"polymem {record.version} answers at {record.url}", f"  data  {record.database or settings.data_dir}"]
    if key.secret is not None and shows_secret:
        lines.append(f"  key   {key.secret}")
    if key.file is not None:
        lines.append(f"  key file  {key.file}")
    elif key.secret is not None:
        lines.append("  key   the one that the settings give, which was made the first key")
    elif settings.key is not None and not key.is_preset_refused:
        lines.append("  key   the one that the settings give")
    else:
        lines.append("  key   made earlier; `polymem keys create` makes another")
    if key.is_preset_refused:
        lines.append("  key   the one that the settings give opens nothing here: another one was made the first key")
    lines += [f"  degraded  {reason}" for reason in degraded]
    api = record.apis.get("mem9")
    if api is not None:
        secret = f'"X-API-Key: $(cat {shlex.quote(str(key.file))})"' if key.file else '"X-API-Key: $API_KEY"'
        lines += [
            "Try it:",
            f"  curl -s {record.url}/healthz",
            f"  curl -sX POST {api}/memories -H {secret} -H 'Content-Type: application/json' -d '{_EXAMPLE}'",
            f"  curl -s -H {secret} '{api}/memories?q=build+server+name'",
        ]
    return lines
