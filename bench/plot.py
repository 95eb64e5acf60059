#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws speed over batch size as SVG, from tables that other programs printed. Needs nothing but Python.

usage: plot.py OUT.svg [--title TEXT] [--context N] LABEL=FILE...

A FILE is what `bench/model` printed (CSV; its decode cases, and as a dashed line the machine's limit that it
reckons), or what `llama-batched-bench` printed (a table with the columns B and S_TG). Both axes are logarithmic, so
that twice as fast looks the same everywhere. Colours are readable on a light and on a dark page."""
import argparse
import csv
import html
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 170, 44, 52
COLOURS = ["#2f7de1", "#e06c2b", "#2a9d5c", "#a05cc4", "#b58900"]
GREY = "#888"


def read_model(lines, context):
    """bench/model: {context: ([(sequences, tok/s)], [(sequences, tok/s at the limit)])}"""
    points, limits, found = {}, {}, None
    for row in csv.DictReader(line for line in lines if line[0] != "#"):
        if row["case"] != "decode" or context not in (None, int(row["context"])):
            continue
        found = int(row["context"])
        seqs = int(row["seqs"])
        points.setdefault(found, []).append((seqs, float(row["tok_s"])))
        limits.setdefault(found, []).append((seqs, 1e3 * seqs / float(row["bound_ms"])))
    return {c: (points[c], limits[c]) for c in points}


def read_batched(lines):
    """llama-batched-bench: [(sequences, tok/s)]"""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    names = next(row for row in rows if "B" in row)
    at_b, at_speed = names.index("B"), next(i for i, name in enumerate(names) if name.startswith("S_TG"))
    return [(int(row[at_b]), float(row[at_speed])) for row in rows if row[at_b].isdigit()]


def read(label, path, context):
    """[(label, points, is dashed)]; the limit is drawn once, of the first file that has one."""
    with open(path) as file:
        lines = [line for line in file if line.strip()]
    if any(line.startswith("case,") for line in lines):
        contexts = read_model(lines, context)
        if not contexts:
            sys.exit(f"plot: {path}: no decode cases" + (f" of context {context}" if context else ""))
        many = len(contexts) > 1
        return ([(f"{label}, {c} tokens" if many else label, points, False) for c, (points, _) in contexts.items()],
                [(f"limit, {c} tokens" if many else "the machine's limit", limit, True)
                 for c, (_, limit) in contexts.items()])
    return [(label, read_batched(lines), False)], []


class Axis:
    def __init__(self, values, first, last):
        self.low, self.high, self.first, self.last = min(values), max(values), first, last

    def at(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low) if self.high > self.low else 0.5
        return self.first + share * (self.last - self.first)

    def ticks(self):
        """1, 2, 5, 10, ... within"""
        steps = [m * 10 ** e for e in range(-1, 7) for m in (1, 2, 5)]
        return [s for s in steps if self.low <= s * 1.0001 and s <= self.high * 1.0001]


def text(x, y, what, anchor="middle", size=12, fill=GREY, more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}"{more}>'
            f"{html.escape(what)}</text>")


def grid(x, y, batches):
    out = []
    for tick in y.ticks():
        at = y.at(tick)
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="{GREY}" '
                   'stroke-opacity="0.25"/>')
        out.append(text(LEFT - 8, at + 4, f"{tick:g}", "end"))
    for batch in batches:
        out.append(text(x.at(batch), HEIGHT - BOTTOM + 20, str(batch)))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "sequences decoded together"))
    out.append(text(16, (TOP + HEIGHT - BOTTOM) / 2, "tokens a second, all together", more=(
        f' transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2:.1f})"')))
    return out


def line(x, y, points, colour, is_dashed):
    path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
    dash = ' stroke-dasharray="5 4"' if is_dashed else ""
    out = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    if not is_dashed:
        out += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
    return out


def spread(places):
    """Labels at the ends of their lines, 15 apart at least."""
    placed, last = {}, -math.inf
    for key, at in sorted(places.items(), key=lambda item: item[1]):
        last = placed[key] = max(at, last + 15)
    return placed


def draw(title, series):
    batches = sorted({a for _, points, is_dashed in series for a, _ in points if not is_dashed})
    values = [b for _, points, _ in series for _, b in points]
    x = Axis(batches, LEFT, WIDTH - RIGHT)
    y = Axis([min(values) * 0.8, max(values) * 1.1], HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'role="img"><title>{html.escape(title)}</title>', text(LEFT, 22, title, "start", 15)]
    out += grid(x, y, batches)
    ends, colours, solid = {}, {}, 0
    for number, (_, points, is_dashed) in enumerate(series):
        colours[number] = GREY if is_dashed else COLOURS[solid % len(COLOURS)]
        solid += not is_dashed
        out += line(x, y, points, colours[number], is_dashed)
        ends[number] = y.at(points[-1][1])
    for number, at in spread(ends).items():
        label, points, _ = series[number]
        out.append(text(max(x.at(points[-1][0]), LEFT) + 10, at + 4, label, "start", fill=colours[number]))
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--title", default="Batched decode")
    parser.add_argument("--context", type=int, help="only the decode cases of this context")
    parser.add_argument("files", nargs="+", metavar="LABEL=FILE")
    args = parser.parse_args()
    series, limits = [], []
    for given in args.files:
        label, _, path = given.rpartition("=")
        lines, limit = read(label or path, path, args.context)
        series += lines
        limits = limits or limit
    with open(args.out, "w") as file:
        file.write(draw(args.title, series + limits))


if __name__ == "__main__":
    main()
