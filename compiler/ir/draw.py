"""A drawing of a graph as SVG: one row for each step of depth, arrows along the data."""

from __future__ import annotations

from html import escape

import networkx as nx

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph, Node, Value

WIDTH, HEIGHT, GAP_X, GAP_Y = 180, 34, 24, 26
COLOURS = (
    (facts.CONVOLUTIONS, "#cfe2ff"),
    (facts.PRODUCTS, "#d8f0d3"),
    (facts.ELEMENTWISE, "#fff3cd"),
    (facts.MOVEMENT, "#e9ecef"),
    (frozenset({"onyxc.Fused"}), "#f3d9fa"),
)


def to_networkx(graph: Graph) -> nx.DiGraph:
    """Nodes and values at the border as a networkx graph; edges carry the value's type."""
    made = nx.DiGraph()
    for value in graph.inputs:
        made.add_node(value, label=[value.name, str(value.type)], colour="#ffffff")
    for node in graph:
        made.add_node(node, label=[_title(node), str(node.output.type) if node.outputs else ""], colour=_colour(node))
        reads = [v for v in node.inputs if v is not None] + [v for g in node.subgraphs() for v in g.captured()]
        for value in reads:
            source: Node | Value | None = value.producer if value.producer is not None else value
            if source in made:
                made.add_edge(source, node, type=str(value.type))
    for index, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        made.add_node(index, label=[name, str(value.type)], colour="#ffffff")
        if value.producer in made:
            made.add_edge(value.producer, index, type=str(value.type))
    return made


def _title(node: Node) -> str:
    body = node.attrs.get("body")
    if node.op == "Fused" and isinstance(body, Graph):
        return " ".join(n.op for n in body)
    return node.op


def _colour(node: Node) -> str:
    return next((colour for ops, colour in COLOURS if facts.key(node) in ops), "#ffffff")


def to_svg(graph: Graph) -> str:
    """The drawing; big graphs get long, not wide."""
    drawn = to_networkx(graph)
    rows = [list(layer) for layer in nx.topological_generations(drawn)]
    width = max((len(r) for r in rows), default=1) * (WIDTH + GAP_X) + GAP_X
    place: dict[object, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        order = sorted(row, key=lambda n: _mean([place[p][0] for p in drawn.predecessors(n)]))
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, node in enumerate(order):
            place[node] = left + column * (WIDTH + GAP_X), GAP_Y + level * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{len(rows) * (HEIGHT + GAP_Y) + GAP_Y}" '
        'font-family="sans-serif" font-size="11" text-anchor="middle">',
        '<defs><marker id="a" markerWidth="6" markerHeight="6" refX="5" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#666"/></marker></defs>',
    ]
    for source, target, facts_ in drawn.edges(data=True):
        (x1, y1), (x2, y2) = place[source], place[target]
        parts.append(
            f'<path d="M{x1 + WIDTH / 2},{y1 + HEIGHT} L{x2 + WIDTH / 2},{y2}" fill="none" stroke="#666" '
            f'marker-end="url(#a)"><title>{escape(facts_["type"])}</title></path>'
        )
    for node, (x, y) in place.items():
        first, second = (escape(_short(t)) for t in drawn.nodes[node]["label"])
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{drawn.nodes[node]["colour"]}" '
            f'stroke="#999"/><text x="{x + WIDTH / 2}" y="{y + 14}">{first}</text>'
            f'<text x="{x + WIDTH / 2}" y="{y + 27}" fill="#666">{second}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"
