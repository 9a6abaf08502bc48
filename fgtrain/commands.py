"""Every command except `run`, and the function that runs it, which is imported when it is called."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from tyro.conf import Positional, arg, subcommand

from fgdata.commandline.names import check_command
from fgdata.errors import InputError

from .settings import evaluations, pictures, sharing, studying
from .settings.common import Switch


@dataclass(frozen=True)
class List:
    """List recipes, shard sets and runs, or only the runs that are named; with --command, print the commands that make
    them."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RUN...]", help_behavior_hint="")] = ()
    """Run directories. Default: all under runs/, with the recipes and shard sets."""
    command: Switch = False
    """Print a command for each run that starts it again with all its settings."""


FUNCTIONS: dict[type, str] = {
    evaluations.All: "fgtrain.evaluate.every:run_all",
    evaluations.Knn: "fgtrain.evaluate.report:run_knn",
    evaluations.Linear: "fgtrain.evaluate.report:run_linear",
    evaluations.Finetune: "fgtrain.evaluate.report:run_finetune",
    evaluations.Retrieval: "fgtrain.evaluate.report:run_retrieval",
    evaluations.Localization: "fgtrain.evaluate.report:run_localization",
    evaluations.Compare: "fgtrain.evaluate.tables:run_compare",
    evaluations.Export: "fgtrain.networks.saved:run_export",
    sharing.Embed: "fgtrain.evaluate.embed:run_embed",
    sharing.Push: "fgtrain.sharing.push:run_push",
    pictures.Views: "fgtrain.show.views:draw_views",
    pictures.Gradcam: "fgtrain.show.gradcam:draw_gradcam",
    pictures.Pairs: "fgtrain.show.pairs:draw_pairs",
    pictures.Watch: "fgtrain.show.watch:run_watch",
    pictures.Curves: "fgtrain.show.curves:draw_curves",
    studying.Study: "fgtrain.studies.command:run_study",
    List: "fgtrain.show.listing:run_list",
}
"""Type of the flags -> module:function that takes them."""


@dataclass(frozen=True)
class Eval:
    """Measure trained encoders."""

    what: Annotated[
        Annotated[evaluations.All, subcommand("all")]
        | Annotated[evaluations.Knn, subcommand("knn")]
        | Annotated[evaluations.Linear, subcommand("linear")]
        | Annotated[evaluations.Finetune, subcommand("finetune")]
        | Annotated[evaluations.Retrieval, subcommand("retrieval")]
        | Annotated[evaluations.Localization, subcommand("localization")],
        arg(name=""),
    ]
    """Which evaluation."""


@dataclass(frozen=True)
class Show:
    """Draw a picture: PNG, PDF or SVG."""

    what: Annotated[
        Annotated[pictures.Views, subcommand("views")]
        | Annotated[pictures.Gradcam, subcommand("gradcam")]
        | Annotated[pictures.Pairs, subcommand("pairs")]
        | Annotated[pictures.Curves, subcommand("curves")],
        arg(name=""),
    ]
    """Which picture."""


COMMANDS: dict[str, type] = {
    "eval": Eval,
    "compare": evaluations.Compare,
    "study": studying.Study,
    "show": Show,
    "watch": pictures.Watch,
    "list": List,
    "embed": sharing.Embed,
    "export": evaluations.Export,
    "push": sharing.Push,
}


def find_command(words: list[str]) -> tuple[type | None, int]:
    """Arguments -> the type of the flags of the command, or group of commands, that their first words name, and how
    many words that are; (None, 0) if they name none. InputError for a name that there is not."""
    check_command("fgtrain", words, ("run", *COMMANDS))
    kind = COMMANDS.get(words[0]) if words else None
    if kind not in (Eval, Show):
        return kind, int(kind is not None)
    union, *_ = get_args(get_type_hints(kind, include_extras=True)["what"])
    inner = {each.__metadata__[0].name: each.__origin__ for each in get_args(union)}
    check_command(f"fgtrain {words[0]}", words[1:], inner)
    return (inner[words[1]], 2) if len(words) > 1 and words[1] in inner else (kind, 1)


def call(flags: Any) -> None:
    """Calls the function of a parsed command with its flags; an evaluation of several runs, once per run."""
    module, name = FUNCTIONS[type(flags)].split(":")
    function = getattr(import_module(module), name)
    if not isinstance(flags, evaluations.Evaluation) or not flags.others:
        function(flags)
        return
    faults = []
    for run in dict.fromkeys((flags.run, *flags.others)):
        try:
            function(replace(flags, run=run, others=()))
        except InputError as fault:  # the other runs are still measured
            faults.append(f"{run}: {fault}")
    if faults:
        raise InputError("\n".join(faults))
