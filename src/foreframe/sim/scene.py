"""What a room is drawn with: its palette, and a scene that collects textures, materials and geoms as MJCF."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foreframe.sim.textures import PAINTERS, Colour, encode_png, hsv

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The colours one room is painted and furnished with."""

    wall: Colour
    """Main wall paint."""
    accent_wall: Colour
    """One of the four walls."""
    floor: Colour
    """Floor covering."""
    timber: Colour
    """Wood of tables and shelves."""
    cabinet: Colour
    """Painted fronts."""
    textile: Colour
    """Sofas, rugs, curtains."""
    metal: Colour
    """Legs, handles, frames."""


@dataclass
class Scene:
    """Collects the assets and geoms of a room while it is being furnished."""

    rng: np.random.Generator
    """Layout stream."""
    paint: np.random.Generator
    """Texture stream: apart, so that another texture does not move the furniture."""
    palette: Palette
    """The room's colours."""
    pngs: dict[str, bytes] = field(default_factory=dict)
    """Texture files in memory, by name."""
    assets: list[str] = field(default_factory=list)
    """MJCF of textures and materials."""
    geoms: list[str] = field(default_factory=list)
    """MJCF of the piece being drawn."""
    bodies: list[str] = field(default_factory=list)
    """MJCF of the pieces set down."""
    _cache: dict[tuple[object, ...], str] = field(default_factory=dict)

    def colour(
        self, saturation: tuple[float, float] = (0.12, 0.42), value: tuple[float, float] = (0.25, 0.85)
    ) -> Colour:
        """A natural colour: any hue, little chroma (saturated chroma is what 4:2:0 video keeps worst)."""
        return hsv(self.rng.random(), self.rng.uniform(*saturation), self.rng.uniform(*value))

    def material(
        self,
        painter: str,
        colour: Colour,
        *,
        cube: bool = True,
        repeat: float = 0.0,
        shine: float = 0.1,
        glow: float = 0.0,
        variant: int = 0,
        paint: np.random.Generator | None = None,
        alpha: float = 1.0,
    ) -> str:
        """Name of a textured material, painted once per request; `repeat` is tiles per metre (0: stretched).

        `paint` replaces the texture stream: for things that must not shift the textures of others.
        """
        key = (painter, colour, cube, repeat, variant)
        if key not in self._cache:
            name = f"m{len(self._cache)}"
            self.pngs[f"{name}.png"] = encode_png(PAINTERS[painter](paint or self.paint, colour)[:: -1 if cube else 1])
            uniform = f'texuniform="true" texrepeat="{repeat:.3f} {repeat:.3f}"' if repeat else ""
            self.assets.append(
                f'<texture name="{name}" type="{"cube" if cube else "2d"}" file="{name}.png"/>'
                f'<material name="{name}" texture="{name}" {uniform} specular="{shine}" shininess="0.3" '
                f'emission="{glow}" rgba="1 1 1 {alpha}"/>'
            )
            self._cache[key] = name
        return self._cache[key]

    def geom(
        self, kind: str, position: tuple[float, float, float], size: tuple[float, ...], look: str | Colour, *,
        solid: bool = False, euler: tuple[float, float, float] = (0, 0, 0),
    ) -> None:  # fmt: skip
        """One geom; `look` is a material name or a plain colour. `solid` ones are touched by robot and objects."""
        paint = f'material="{look}"' if isinstance(look, str) else f'rgba="{look[0]:.3f} {look[1]:.3f} {look[2]:.3f} 1"'
        self.geoms.append(
            f'<geom class="{"solid" if solid else "still"}" type="{kind}" '
            f'pos="{position[0]:.4f} {position[1]:.4f} {position[2]:.4f}" '
            f'size="{" ".join(f"{max(value, 0.001):.4f}" for value in size)}" {paint}'
            + (f' euler="{euler[0]:.3f} {euler[1]:.3f} {euler[2]:.3f}"' if any(euler) else "")
            + "/>"
        )

    def box(
        self, x: float, y: float, z: float, width: float, depth: float, height: float, look: str | Colour, *,
        solid: bool = False, turn: float = 0.0,
    ) -> None:  # fmt: skip
        """A box given by the centre of its base and its full sizes."""
        self.geom(
            "box", (x, y, z + height / 2), (width / 2, depth / 2, height / 2), look, solid=solid, euler=(0, 0, turn)
        )

    def cylinder(
        self, x: float, y: float, z: float, radius: float, height: float, look: str | Colour, *, solid: bool = False
    ) -> None:
        """An upright cylinder given by the centre of its base."""
        self.geom("cylinder", (x, y, z + height / 2), (radius, height / 2), look, solid=solid)

    def panel(self, x: float, y: float, z: float, width: float, height: float, look: str) -> None:
        """A thin upright sheet facing +y; repeating textures need one, as MuJoCo maps a box as a cube from inside."""
        self.geom("plane", (x, y, z + height / 2), (width / 2, height / 2, 1), look, euler=(-1.5708, 0, 0))

    def place(self, x: float, y: float, turn: float) -> None:
        """Close the piece drawn since the last call and set it down at (x, y), turned about z."""
        self.bodies.append(f'<body pos="{x:.4f} {y:.4f} 0" euler="0 0 {turn:.4f}">{"".join(self.geoms)}</body>')
        self.geoms.clear()

    def timber(self) -> str:
        """The room's wood."""
        return self.material("wood", self.palette.timber, shine=0.15)
