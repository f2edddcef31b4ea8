"""How the simulated robot finds its way: paths around the furniture, on a grid."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from foreframe.sim.room import Rect, Room


def distance_to(box: Rect, x: float, y: float) -> float:
    """From a point to a footprint, m; 0 inside it."""
    return math.hypot(max(box.x0 - x, x - box.x1, 0.0), max(box.y0 - y, y - box.y1, 0.0))


def plan_path(
    room: Room, start: tuple[float, float], goal: tuple[float, float], clearance: float
) -> list[tuple[float, float]]:
    """Waypoints around the furniture: A* on a 10 cm grid with a price on nearness, cut short where the way is clear."""
    step = 0.1
    hx, hy = room.half
    nx, ny = int(2 * hx / step) + 1, int(2 * hy / step) + 1
    xs, ys = np.linspace(-hx, hx, nx), np.linspace(-hy, hy, ny)
    gap = np.minimum((hx - np.abs(xs))[:, None], (hy - np.abs(ys))[None, :])
    for box in room.obstacles:
        dx = np.maximum(np.maximum(box.x0 - xs, xs - box.x1), 0)[:, None]
        dy = np.maximum(np.maximum(box.y0 - ys, ys - box.y1), 0)[None, :]
        gap = np.minimum(gap, np.hypot(dx, dy))
    price = 1 + 40 * np.maximum(clearance + 0.1 - gap, 0) + 1000 * (gap < clearance - 0.1)

    def cell(point: tuple[float, float]) -> tuple[int, int]:
        return (
            int(np.clip(round((point[0] + hx) / (2 * hx) * (nx - 1)), 0, nx - 1)),
            int(np.clip(round((point[1] + hy) / (2 * hy) * (ny - 1)), 0, ny - 1)),
        )

    first, last = cell(start), cell(goal)
    best = {first: 0.0}
    parent: dict[tuple[int, int], tuple[int, int]] = {}
    queue = [(0.0, first)]
    while queue:
        _, here = heapq.heappop(queue)
        if here == last:
            break
        for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            there = (here[0] + di, here[1] + dj)
            if not (0 <= there[0] < nx and 0 <= there[1] < ny):
                continue
            cost = best[here] + math.hypot(di, dj) * float(price[there])
            if cost < best.get(there, math.inf):
                best[there], parent[there] = cost, here
                heapq.heappush(queue, (cost + math.hypot(there[0] - last[0], there[1] - last[1]), there))
    cells = [last]
    while cells[-1] in parent and cells[-1] != first:
        cells.append(parent[cells[-1]])
    points = [(float(xs[i]), float(ys[j])) for i, j in reversed(cells)]
    points[0], points[-1] = start, goal

    def clear(a: tuple[float, float], b: tuple[float, float]) -> bool:
        for t in np.linspace(0, 1, max(2, int(math.hypot(b[0] - a[0], b[1] - a[1]) / 0.05))):
            i, j = cell((a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t))
            if gap[i, j] < clearance:
                return False
        return True

    path = [points[0]]
    k = 0
    while k < len(points) - 1:
        nxt = next((m for m in range(len(points) - 1, k, -1) if m == k + 1 or clear(points[k], points[m])), k + 1)
        path.append(points[nxt])
        k = nxt
    return path
