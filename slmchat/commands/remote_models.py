"""`slm list --endpoint`: the models of an endpoint.

Refuses to know: what is installed here (models.py), how the endpoint is asked (engine/remote).
"""

from slmchat.errors import ExitCode
from slmchat.models.remote_backend import open_endpoint
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.tables import Column


def list_remote(asked: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Print the models that the endpoint lists. Raises `SlmError` (network)."""
    place = open_endpoint(asked, settings, console)
    from slmchat.engine.remote.engine import list_models

    models = list_models(place.endpoint, place.key, place.route, console.note)
    if is_json:
        console.print_json(
            [
                {
                    "name": model.id,
                    "endpoint": place.endpoint.url,
                    "context_length": model.n_ctx,
                    "aliases": model.aliases,
                }
                for model in models
            ]
        )
    elif models:
        console.table(
            (Column("NAME"), Column("CONTEXT WINDOW", rank=1), Column("ALSO CALLED", rank=2)),
            [(model.id, f"{model.n_ctx:,}" if model.n_ctx else "", " ".join(model.aliases)) for model in models],
        )
    else:
        console.note(f"{place.host} has no model.")
    return ExitCode.DONE
