"""Tables and plots of what benchmarks.speed, benchmarks.roofline and benchmarks.gpu_day measured.

Writes RESULTS.md and three plots beside this file, or to another folder; of a file of
benchmarks.gpu_day, gpu.md. Run from the repository's root, with matplotlib besides what the
README's development set-up installs:

    python -m benchmarks.report results.json [--to DIR]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.speed import size_of, spread

HERE = Path(__file__).resolve().parent
#: Of contenders, in the order of tables and legends.
COLOURS = {
    "ours": "#1b6ca8",
    "ours, bfloat16": "#6fb1de",
    "ours, float32": "#6fb1de",
    "ours, scale 1": "#123f63",
    "ours, bfloat16, scale 1": "#88a0b8",
    "ours, float32, scale 1": "#88a0b8",
    "ComfyUI": "#d1495b",
    "ComfyUI-Frame-Interpolation": "#e79a3c",
    "vs-rife": "#4f9d69",
    "TheAnimeScripter": "#7d5ba6",
    "CogVideo": "#8d6e63",
}
Rows = list[dict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="the JSON file")
    parser.add_argument("--to", type=Path, default=HERE, metavar="DIR")
    args = parser.parse_args()
    results = json.loads(args.results.read_text())
    if "gpu_day" in results:
        (args.to / "gpu.md").write_text(gpu_tables(results) + "\n")
        return
    rows = {name: list(part.values()) for name, part in results.items() if name != "about"}
    plots = {
        name: plot(rows, args.to / name)
        for name, plot in {
            "speed-by-size.png": plot_sizes,
            "speed-by-length.png": plot_lengths,
            "speed-ratios.png": plot_ratios,
        }.items()
    }
    text = [head(results.get("about", {}))]
    text += [table(rows) for table in (speeds, firsts, memories, lengths, sizes, rooflines)]
    text += [f"![{caption}]({name})" for name, caption in plots.items() if caption]
    (args.to / "RESULTS.md").write_text("\n\n".join(part for part in text if part) + "\n")


# Tables


def head(about: dict[str, dict]) -> str:
    """Where, when and by what commands; those of one machine, day and state together."""
    together: dict[str, list[str]] = {}
    for command, facts in about.items():
        together.setdefault(measured_on(facts), []).append(command)
    parts = ["# Speed"]
    for words, commands in together.items():
        parts.append(f"{words}, by\n\n" + "\n".join(f"    {command}" for command in commands))
    parts.append(
        "How to read it, and what is fair in it and what isn't: [README.md](README.md). Times are "
        "medians of rounds in turns, of one new frame, in milliseconds; in parentheses the least "
        "and the most."
    )
    return "\n\n".join(parts)


def measured_on(facts: dict) -> str:
    words = [f"Measured on {facts['date']} on {facts['cores']} cores of {facts['cpu']}"]
    words += [f"{facts['memory'] / 2**30:.0f} GiB", facts["gpu"] or "no GPU"]
    words += [f"{facts['threads']} thread" + "s" * (facts["threads"] != 1), facts["system"]]
    words += [f"Python {facts['python']}, torch {facts['torch']}"]
    words += [f"this repository at {facts['commit']}"] if facts["commit"] else []
    words += [f"{name} {version}".strip() for name, version in facts["peers"].items()]
    return ", ".join(words)


def speeds(rows: dict[str, Rows]) -> str:
    """A table for each network."""
    parts = []
    for network, of_network in grouped(rows.get("speed", []), lambda row: row["network"]):
        who = contenders_of(of_network)
        lines = []
        for _, together in grouped(of_network, place):
            by_name = {row["contender"]: row for row in together}
            row = together[0]
            cells = [f"{size_of(row)}", str(row["frames"]), f"{row['multiplier']}x", where(row)]
            lines.append([*cells, *(cell(by_name.get(name)) for name in who)])
        headings = ["size", "frames", "", "on", *who]
        parts.append(f"## {network}\n\n" + table(headings, lines, left=4))
    if not parts:
        return ""
    starred = any("\\*" in part for part in parts)
    note = "\n\n\\* times ours at the same scale of flow and in the same precision, not `ours`."
    return "\n\n".join(parts) + (note if starred else "")


def cell(row: dict | None) -> str:
    """Time, and how many times ours takes it."""
    if row is None:
        return ""
    if "failed" in row:
        return "fails" if row["failed"].startswith("fails") else "-"
    low, middle, high = spread([1000 * s / row["new"] for s in row["seconds"]])
    words = f"{middle:.0f} ({low:.0f} - {high:.0f})"
    if row["contender"] == row["against"]:
        return words
    low, middle, high = spread(row["ratios"])
    star = "" if row["against"] == "ours" else "\\*"
    return f"{words}, **{middle:.2f}**{star} ({low:.2f} - {high:.2f})"


def firsts(rows: dict[str, Rows]) -> str:
    found = [row for row in rows.get("speed", []) if row["multiplier"] == 2 and "first" in row]
    who = contenders_of(found)
    lines = []
    for _, together in grouped(found, place):
        by_name = {row["contender"]: row for row in together}
        times = (f"{by_name[name]['first']:.2f}" if name in by_name else "" for name in who)
        lines.append([together[0]["network"], size_of(together[0]), where(together[0]), *times])
    title = "## The first two frames\n\nSeconds that the first call takes, from 2 frames to 3.\n\n"
    return title + table(["network", "size", "on", *who], lines, left=3) if lines else ""


def memories(rows: dict[str, Rows]) -> str:
    found = [row for row in rows.get("memory", []) if "failed" not in row]
    who = contenders_of(found)
    lines = []
    for _, together in grouped(found, place):
        by_name = {row["contender"]: row for row in together}
        row = together[0]
        cells = [row["network"], size_of(row), str(row["frames"]), f"{row['multiplier']}x"]
        for name in who:
            row = by_name.get(name)
            cells.append(f"{row['overhead'] / 1e6:,.0f} ({row['peak'] / 1e6:,.0f})" if row else "")
        lines.append(cells)
    title = (
        "## Memory\n\nMB at the peak beside what was loaded, the frames given and the result; in "
        "parentheses all that the process took.\n\n"
    )
    return title + table(["network", "size", "frames", "", *who], lines, left=4) if lines else ""


def lengths(rows: dict[str, Rows]) -> str:
    lines = []
    for row in sorted(rows.get("lengths", []), key=lambda row: (row["contender"], row["frames"])):
        parts = "{:.1f} - {:.1f} - {:.1f}".format(*spread(row["chunks"])) if "chunks" in row else ""
        each = 1000 * row["seconds"] / (row["frames"] - 1)
        cells = [row["contender"], row["network"], size_of(row), where(row), str(row["frames"])]
        lines.append([*cells, f"{row['seconds']:.2f}", f"{each:.2f}", parts])
    headings = ["who", "network", "size", "on", "frames", "s", "ms a new frame", "in parts of it"]
    title = (
        "## By length\n\n2x. In parts: the least, the median and the most of up to 50 parts of the "
        "clip, one after the other.\n\n"
    )
    return title + table(headings, lines, left=4) if lines else ""


def sizes(rows: dict[str, Rows]) -> str:
    found = rows.get("sizes", [])
    who = contenders_of(found)
    lines = []
    for _, together in grouped(found, place):
        by_name = {row["contender"]: row for row in together}
        row = together[0]
        cells = [row["network"], size_of(row), where(row)]
        for name in who:
            row = by_name.get(name)
            if not row or "failed" in row:
                cells.append("")
                continue
            each = median(row["seconds"]) / row["new"]
            pixels = row["height"] * row["width"] / 1e6
            cells.append(f"{1000 * each:.0f} ({1000 * each / pixels:.0f})")
        lines.append(cells)
    title = "## By size\n\n2x, a few frames. In parentheses: ms for each million pixels.\n\n"
    return title + table(["network", "size", "on", *who], lines, left=3) if lines else ""


def rooflines(rows: dict[str, Rows]) -> str:
    parts = []
    for row in rows.get("ceilings", []):
        speeds = [f"{key} {row[key] / 1e9:.0f} GFLOP/s" for key in row if " " in key]
        words = ", ".join([*speeds, f"copying {row['copy'] / 1e9:.1f} GB/s"])
        parts.append(f"The machine's best, on {where(row)}: {words}.")
    lines = [
        [
            row["network"], size_of(row), f"{row['multiplier']}x", row["contender"],
            f"{row['flops'] / 1e9:.1f}", f"{row['bytes'] / 1e9:.2f}",
            f"{row['flops'] / row['seconds'] / 1e9:.0f}",
            *(f"{row[key]:.0%}" for key in ("matmul", "convolution", "copy", "both")),
        ]
        for row in rows.get("shares", [])
    ]  # fmt: skip
    headings = ["network", "size", "", "who", "GFLOP", "GB", "GFLOP/s"]
    headings += ["of matmul", "of convolution", "of copying", "of both"]
    if lines:
        parts.append(
            "Of both: the time that the convolutions need at least, each at the best of computing "
            "or of copying, whichever takes it longer, as a part of the whole time."
        )
        parts.append(table(headings, lines, left=4))
    return "\n\n".join(["## How much of the machine", *parts]) if parts else ""


def gpu_tables(results: dict) -> str:
    """All that benchmarks.gpu_day found, as Markdown. Parts that failed say why."""
    parts, found = results["gpu_day"], results["about"]["gpu_day"]
    texts = ["# On a GPU", measured_on(found) + ", by\n\n    python -m benchmarks.gpu_day"]
    for name, make in GPU_TABLES.items():
        part = parts.get(name)
        if part:
            heading, text = make(part) if "failed" not in part else (name, part["failed"])
            texts.append(f"## {heading}\n\n{text}")
    return "\n\n".join(texts)


def gpu_tests(part: dict) -> tuple[str, str]:
    return "Tests", "\n".join([part["summary"], *(f"- {line}" for line in part["not passed"])])


def gpu_peers(part: dict) -> tuple[str, str]:
    who = contenders_of(list(part.values()))
    lines = []
    for _, together in grouped(list(part.values()), place):
        by_name = {row["contender"]: row for row in together}
        row = together[0]
        lines.append([size_of(row), str(row["frames"]), *(cell(by_name.get(n)) for n in who)])
    return (
        "In turns, frames in and out on the CPU, ms of a new frame, **times ours**",
        table(["size", "frames", *who], lines, left=2),
    )


def gpu_lengths(part: dict) -> tuple[str, str]:
    lines = [
        [name, *(f"{row[key]:.2f}" for key in ("fixed", "marginal", "whole"))]
        for name, row in part.items()
    ]
    headings = ["frames", "fixed of a run", "marginal of a new frame", "of a new one of 49"]
    return "Fixed and marginal cost, ms, 2x", table(headings, lines, left=1)


def gpu_first_runs(part: dict) -> tuple[str, str]:
    lines = [[name, *(f"{seconds:.2f}" for seconds in row)] for name, row in part.items()]
    return "Runs of a process, 49 frames of 480p, s", table(["", "1st", "2nd", "3rd"], lines, 1)


def gpu_throughput(part: dict) -> tuple[str, str]:
    lines = [
        [
            size, f"{row['2x']:.2f}", f"{1000 / row['2x']:.0f}", f"{row['least']:.2f}",
            f"{row['least'] / row['2x']:.0%}", f"{row['4x'] / row['2x']:.2f}",
        ]
        for size, row in part.items() if size != "ceilings"
    ]  # fmt: skip
    ceilings = ", ".join(
        f"{name} {value / 1e12:.2f} {'TB/s' if name == 'copy' else 'TFLOP/s'}"
        for name, value in part["ceilings"].items()
    )
    headings = ["size", "ms a new frame", "frames/s", "least", "share", "4x by 2x"]
    text = table(headings, lines, left=1) + f"\n\nThis card reaches {ceilings}."
    return "The network alone: frames on the GPU, cuts not looked for", text


def gpu_by_size(title: str, unit: str) -> Callable[[dict], tuple[str, str]]:
    """A part whose rows are {size: {what: value, or (value, count)}}."""

    def make(part: dict) -> tuple[str, str]:
        texts = []
        for size, rows in part.items():
            lines = [
                [name, *(f"{x:.2f}" for x in (row if isinstance(row, list) else [row]))]
                for name, row in rows.items()
            ]
            counted = any(isinstance(row, list) for row in rows.values())
            texts.append(table([size, unit, *(["launches"] * counted)], lines, left=1))
        return title, "\n\n".join(texts)

    return make


def gpu_exactness(part: dict) -> tuple[str, str]:
    lines = [
        [size, f"{row['whole']:.1f}", f"{row['worst tile']:.1f}", str(row["runs equal"])]
        for size, row in part.items()
    ]
    headings = ["size", "dB", "worst 64x64 tile", "two runs equal"]
    return "float16 against the plain network in float32", table(headings, lines, left=1)


def gpu_memory(part: dict) -> tuple[str, str]:
    lines = [[name, f"{value:.0f}"] for name, value in part.items()]
    return "Memory of the GPU beside the network, MB", table(["", "MB"], lines, left=1)


#: Parts of benchmarks.gpu_day, in the order of the report.
GPU_TABLES: dict[str, Callable[[dict], tuple[str, str]]] = {
    "tests": gpu_tests,
    "peers": gpu_peers,
    "lengths": gpu_lengths,
    "first runs": gpu_first_runs,
    "throughput": gpu_throughput,
    "kernels": gpu_by_size("Kernels", "us of a new frame"),
    "languages": gpu_by_size("By what the fused kernels are written in", "ms or us"),
    "threads": gpu_by_size("Where threads are, by looking at them", "ms of a new frame"),
    "timeline": gpu_by_size("What the GPU does, from and to the CPU", "ms of a new frame"),
    "exactness": gpu_exactness,
    "memory": gpu_memory,
}


def table(headings: list[str], lines: list[list[str]], left: int) -> str:
    rules = ["---" if i < left else "---:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rules, *lines))


# Plots


def plot_sizes(rows: dict[str, Rows], file: Path) -> str:
    plt = pyplot()
    found = [row for row in rows.get("sizes", []) if "failed" not in row]
    if not found:
        return ""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in contenders_of(found):
        points = sorted(
            (row["height"] * row["width"] / 1e6, 1000 * median(row["seconds"]) / row["new"])
            for row in found
            if row["contender"] == name
        )
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name)
        if name == "ours":
            slope(axes, points)
    axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="ms for a new frame")
    plain_ticks(axes, sorted({row["height"] * row["width"] / 1e6 for row in found}))
    return finish(figure, axes, file, f"Time by size, {found[0]['network']}, 2x")


def plot_lengths(rows: dict[str, Rows], file: Path) -> str:
    plt = pyplot()
    found = rows.get("lengths", [])
    if not found:
        return ""
    figure, (axes, drift) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name in contenders_of(found):
        of_name = sorted(
            (row for row in found if row["contender"] == name), key=lambda row: row["frames"]
        )
        points = [(row["frames"], row["seconds"]) for row in of_name]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name)
        if name == "ours":
            slope(axes, points)
            longest = of_name[-1]
            done = [100 * (i + 1) / len(longest["chunks"]) for i in range(len(longest["chunks"]))]
            drift.plot(done, longest["chunks"], color=COLOURS[name], label=name)
            drift.set(
                xlabel=f"% of {longest['frames']} frames done", ylabel="ms for a new frame",
                ylim=(0, 1.3 * max(longest["chunks"])), title="Within the longest clip",
            )  # fmt: skip
            drift.grid(alpha=0.3)
    axes.set(xscale="log", yscale="log", xlabel="frames given", ylabel="seconds for the clip")
    plain_ticks(axes, sorted({row["frames"] for row in found}))
    row = found[0]
    return finish(figure, axes, file, f"Time by length, {row['network']}, {size_of(row)}, 2x")


def plot_ratios(rows: dict[str, Rows], file: Path) -> str:
    """Peers at 2x: how many times as long as ours, with the spread over rounds."""
    plt = pyplot()
    found = [
        row
        for row in rows.get("speed", [])
        if row["multiplier"] == 2 and row.get("against", row["contender"]) != row["contender"]
        and not row["contender"].endswith("scale 1")
    ]  # fmt: skip
    networks = grouped(found, lambda row: row["network"])
    if not networks:
        return ""
    who = contenders_of(found)
    high = 1.1 * max(max(row["ratios"]) for row in found)
    columns = min(3, len(networks))
    lines = -(-len(networks) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(4 * columns, 2.9 * lines + 0.6), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat[len(networks) :]:
        axes.set_visible(False)
    for axes, (network, of_network) in zip(grid.flat, networks, strict=False):
        places = grouped(of_network, place)
        here = contenders_of(of_network)
        for i, (_, together) in enumerate(places):
            for row in together:
                low, middle, most = spread(row["ratios"])
                name, wide = row["contender"], 0.8 / len(here)
                x = i + (here.index(name) - (len(here) - 1) / 2) * wide
                error = [[middle - low], [most - middle]]
                axes.bar(x, middle, 0.9 * wide, color=COLOURS[name], yerr=error, capsize=2)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_xticks(range(len(places)), [size_of(part[0]) for _, part in places])
        axes.set(title=network, ylim=(0, high))
        axes.grid(axis="y", alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("times as long as ours")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in who]
    figure.legend(handles, who, loc="outside lower center", ncols=min(len(who), 4), frameon=False)
    title = "Time of a new frame at 2x, ours = 1; lines: least and most of the rounds"
    figure.suptitle(title)
    figure.savefig(file, dpi=100)
    return title


def slope(axes: object, points: list[tuple[float, float]]) -> None:
    """What is linear, through the first point."""
    (x, y), (end, _) = points[0], points[-1]
    axes.plot([x, end], [y, y * end / x], "--", color="grey", label="linear", zorder=0)


def plain_ticks(axes: object, x: list[float]) -> None:
    """On logarithmic axes, numbers as people write them."""
    axes.set_xticks(x, [f"{value:.2g}" if value < 10 else f"{value:g}" for value in x])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    low, high = axes.get_ylim()
    if high < 30 * low:  # too few powers of ten
        axes.yaxis.set_minor_formatter("{x:g}")


def finish(figure: object, axes: object, file: Path, title: str) -> str:
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=100)
    return title


def pyplot() -> object:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


# Rows


def contenders_of(rows: Rows) -> list[str]:
    """Those that can run any of it, in order."""
    there = {row["contender"] for row in rows if row.get("failed", "fails").startswith("fails")}
    return [name for name in COLOURS if name in there]


def grouped(rows: Rows, key: Callable[[dict], object]) -> list[tuple[object, Rows]]:
    """In the order of their first rows."""
    groups: dict[object, Rows] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def place(row: dict) -> tuple:
    keys = ("network", "height", "width", "multiplier", "device", "threads")
    return tuple(row.get(key) for key in keys)


def where(row: dict) -> str:
    threads = f"{row['threads']} thread" + "s" * (row["threads"] != 1)
    return threads if row["device"] == "cpu" else row["device"]


if __name__ == "__main__":
    main()
