"""`python -m convnets`: the commands besides the stages."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnets.base import console

if TYPE_CHECKING:
    from convnets.serving.runtime import Classifier


def sync(_: argparse.Namespace) -> None:
    from convnets.tracking.sync import sync

    sync()


def clean(_: argparse.Namespace) -> None:
    from convnets.tracking import outs

    left, removed = outs.clean()
    console.say(f"{len(removed):,} files removed")
    for path in left:
        console.say(f"{console.printable(str(path))}: not made by the pipeline; it stays")


def inspect(arguments: argparse.Namespace) -> None:
    from convnets.base import params
    from convnets.commands import inspection
    from convnets.tracking import outs

    here = (path for path in (arguments.path, arguments.labels) if path)
    outs.refuse(*(Path(path).expanduser() for path in here if not console.is_address(path)))
    given: dict[str, Any] = {}
    if Path("params.yaml").exists():  # so that the command that is printed works
        p = params.load()
        given = {"seed": p.seed, "max_rejected": p.subset.max_rejected}
    keys = ("layout", "labels", "columns", "pattern", "splits")
    told = {key: value for key in keys if (value := getattr(arguments, key)) is not None}
    seen = inspection.inspect(arguments.path, **given, **told)
    console.say(inspection.show(seen, arguments.format))


def preset(arguments: argparse.Namespace) -> None:
    from convnets.tracking import presets

    presets.write(arguments.name, arguments.set_param)


def compare(arguments: argparse.Namespace) -> None:
    from convnets.commands import compare as comparison

    def tell(line: str) -> None:
        print(console.printable(line), file=sys.stderr)

    found = comparison.settings(comparison.read(arguments.revisions, tell), tell)
    console.say(comparison.show(comparison.table(found), arguments.format))


def backbones(arguments: argparse.Namespace) -> None:
    from convnets.base import params
    from convnets.tracking import declared

    p = params.load()
    if changed := declared.changed("download", "subset"):
        raise console.InputError(
            f"dvc-outs/images: made before {', '.join(changed)} changed; run `dvc repro labels`"
        )
    console.hush()
    from convnets.commands import backbones as measuring

    console.unhush()

    def failed(name: str, reason: str) -> None:
        told = reason if name in reason else f"{name}: {reason}"
        print(f"error: {console.printable(told)}", file=sys.stderr)

    found = measuring.compare(arguments.backbones, p, failed)
    console.say(measuring.show(found, arguments.format))


def sweep(arguments: argparse.Namespace) -> None:
    from convnets.tracking.sweep import sweep

    sweep(arguments.set_param)


def predict(arguments: argparse.Namespace) -> None:
    from convnets.serving import predict as prediction
    from convnets.serving import runtime

    failures: list[str] = []
    failed = partial(_failed, failures)
    model = runtime.load(arguments.model)
    names = list(prediction.files(arguments.images, failed))
    shown = console.progress(names, "predict", len(names), beside_output=True)
    made = prediction.predict(model, shown, failed, arguments.explain)
    unsure = _limit(arguments, model)
    for line in prediction.show(made, model.classes, arguments.format, unsure, names):
        console.say(line)
    if failures:
        sys.exit(1)


def _limit(arguments: argparse.Namespace, model: "Classifier") -> float | None:
    if arguments.accuracy is None:
        return arguments.unsure  # type: ignore[no-any-return]  # of argparse
    from convnets.evaluation import limits

    return limits.limit(model.path, arguments.accuracy)


def _failed(failures: list[str], name: str, reason: str) -> None:
    failures.append(name)
    print(f"error: {console.printable(name)}: {console.printable(reason)}", file=sys.stderr)


def sort(arguments: argparse.Namespace) -> None:
    from convnets.serving import runtime
    from convnets.serving import sort as sorting

    failures: list[str] = []
    given = (arguments.folder, arguments.out, partial(_failed, failures))
    model = runtime.load(arguments.model)
    counts = sorting.sort(model, *given, _limit(arguments, model), arguments.link)
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "no pictures"
    told += f"; {len(failures):,} left out" if failures else ""
    console.say(console.printable(f"{arguments.out}: {told}"))
    if failures:
        sys.exit(1)


def serve(arguments: argparse.Namespace) -> None:
    from convnets.serving import serve as serving

    given = (arguments.port, arguments.host, arguments.allow_host, arguments.collect)
    serving.serve(arguments.model, *given)


def review(arguments: argparse.Namespace) -> None:
    from convnets.serving import review as reviewing

    reviewing.review(arguments.port)


def export(arguments: argparse.Namespace) -> None:
    console.hush()
    try:  # until the end, as the converters write to the screen, too
        from convnets.serving import export as exporting

        given = (arguments.model, arguments.format, arguments.out, arguments.quantize)
        console.say(exporting.export(*given))
    finally:
        console.unhush()


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:  # nor NaN
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m convnets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    about = "record in MLflow the runs that it missed while its server was down"
    command = commands.add_parser("sync", help=about, description=about)
    command.set_defaults(run=sync)

    about = "remove the outs, but nothing that the pipeline did not make"
    command = commands.add_parser("clean", help=about, description=about)
    command.set_defaults(run=clean)

    about = "write params.yaml from one of presets/, or from a file that names one as its base"
    command = commands.add_parser("preset", help=about, description=about)
    command.add_argument("name", metavar="NAME", help="such as photos, or the path of a .yaml file")
    command.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as for `dvc exp run`",
    )
    command.set_defaults(run=preset)

    shown = argparse.ArgumentParser(add_help=False)
    shown.add_argument("--format", choices=("table", "json", "csv"), default="table")

    about = "compare experiments over their seeds: which differences are more than chance"
    command = commands.add_parser("compare", help=about, description=about, parents=[shown])
    command.add_argument(
        "revisions",
        nargs="*",
        metavar="REV",
        help="commits, experiments of DVC or workspace (default: the workspace, HEAD and all "
        "experiments that are based on it)",
    )
    command.set_defaults(run=compare)

    about = "measure backbones on this project's pictures; nothing is changed"
    command = commands.add_parser("backbones", help=about, description=about, parents=[shown])
    command.add_argument(
        "backbones",
        nargs="+",
        metavar="BACKBONE",
        help="EfficientNetLite2, a model of keras.applications, NAME=WEIGHTS for its weights of a "
        ".h5 file, or the path of a .keras or .h5 file",
    )
    command.set_defaults(run=backbones)

    about = "run experiments on the machines of a Ray cluster, at the address in RAY_ADDRESS"
    command = commands.add_parser("sweep", help=about, description=about)
    command.add_argument(
        "-S",
        "--set-param",
        action="append",
        required=True,
        metavar="KEY=VALUE,…",
        help="as for `dvc exp run --queue`: values separated by commas make one experiment each, "
        "and several -S make all combinations",
    )
    command.set_defaults(run=sweep)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model",
        default="models/champion.keras",
        help="a .keras file (default: the champion of this workspace), or champion for MLflow's",
    )

    marks = argparse.ArgumentParser(add_help=False)
    marked = marks.add_mutually_exclusive_group()
    about = "those whose probability is below this share are unsure"
    marked.add_argument("--unsure", type=share, metavar="SHARE", help=about)
    about = "as many are unsure as it takes for so many of the others to be right, such as 0.99"
    marked.add_argument("--accuracy", type=share, metavar="SHARE", help=about)

    about = "predict the class of images"
    command = commands.add_parser(
        "predict", help=about, description=about, parents=[model, marks, shown]
    )
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder that is searched for images, or - for stdin",
    )
    about = "write each image with its evidence in colours (Grad-CAM) into this folder"
    command.add_argument("--explain", type=Path, metavar="FOLDER", help=about)
    command.set_defaults(run=predict)

    about = "copy the pictures of a folder into a folder for each class, unsure and unlike"
    command = commands.add_parser("sort", help=about, description=about, parents=[model, marks])
    about = "is searched for pictures; nothing is written there"
    command.add_argument("folder", type=Path, metavar="FOLDER", help=about)
    about = "gets CLASS/, unlike/, unsure/ and labels.csv; what is there already stays"
    command.add_argument("out", type=Path, metavar="OUT", help=about)
    command.add_argument("--link", action="store_true", help="make symbolic links, not copies")
    command.set_defaults(run=sort)

    port = argparse.ArgumentParser(add_help=False)
    port.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")

    about = "classify pictures on a web page and by HTTP, by default for this machine only"
    command = commands.add_parser("serve", help=about, description=about, parents=[model, port])
    about = "where to listen, such as 0.0.0.0 in a container: whoever reaches it can use the server"
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=about)
    about = "another name of this server in an address bar, such as a proxy's; may be repeated"
    command.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "store pictures whose class is corrected on the page, in FOLDER/train/CLASS"
    command.add_argument("--collect", type=Path, metavar="FOLDER", help=about)
    command.set_defaults(run=serve)

    about = "decide about doubtful labels on a web page, for this machine only: corrections.csv"
    command = commands.add_parser("review", help=about, description=about, parents=[port])
    command.set_defaults(run=review)

    about = "write a model for another runtime, and compare the two on test images"
    command = commands.add_parser("export", help=about, description=about, parents=[model])
    command.add_argument("--format", choices=("onnx", "litert", "saved_model"), required=True)
    about = "the file or, for saved_model, the folder (default: in models, named as the model)"
    command.add_argument("--out", type=Path, metavar="PATH", help=about)
    about = "for litert: a smaller file that may be less accurate; int8 needs the training images"
    command.add_argument("--quantize", choices=("float16", "int8"), help=about)
    command.set_defaults(run=export)

    about = "show what would be used of a folder or an archive, and the command that uses it"
    command = commands.add_parser("inspect", help=about, description=about)
    command.add_argument("path", metavar="PATH", help="a folder, an archive or a web address")
    layouts = ("auto", "classes", "splits", "numbered", "table")
    command.add_argument("--layout", choices=layouts, help="as data.layout")
    command.add_argument("--labels", metavar="CSV", help="as data.labels")
    command.add_argument("--columns", metavar="MAPPING", help="as data.columns")
    about = "as data.pattern, such as '{split}/{class}/**'"
    command.add_argument("--pattern", metavar="PATTERN", help=about)
    about = "as data.splits, such as '{holdout: test}'"
    command.add_argument("--splits", metavar="MAPPING", help=about)
    command.add_argument("--format", choices=("text", "json"), default="text")
    command.set_defaults(run=inspect)

    arguments = parser.parse_args()
    console.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
