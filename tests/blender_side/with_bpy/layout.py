"""A layout that records what a panel draws, and complains where Blender would."""

from types import SimpleNamespace
from typing import ClassVar

import bpy

KNOWN_ICONS = set(bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys())


class Fake:
    """Layout, and what it was told: `texts`, `operators` (id, text, properties), `props`, `bars`, `lists`."""

    language: ClassVar[dict[str, str]] = {}  # English -> what is shown

    def __init__(self, top=None, open_panels=True, wide=False):
        self.top = top or self
        self.wide = wide  # what stands in it stands side by side
        self.parts = []  # texts of buttons, and layouts
        self.open_panels = open_panels
        if top is None:
            self.texts, self.operators, self.props = [], [], []
            self.bars, self.icons, self.menus, self.lists = [], [], [], []

    def _child(self, *args, wide=False, **kwargs):
        self.parts.append(Fake(self.top, self.open_panels, wide))
        return self.parts[-1]

    column = box = _child

    def row(self, *args, **kwargs):
        return self._child(wide=True)

    split = grid_flow = column_flow = row

    def panel(self, idname, default_closed=False):
        return self.row(), self.column() if self.top.open_panels else None

    def cut(self, measure, room):
        """The texts of buttons that need more room than there is, with what stands beside them."""
        found = [text for part in self.parts if isinstance(part, Fake) for text in part.cut(measure, room)]
        if not self.wide:
            return found + [part for part in self.parts if isinstance(part, str) and measure(part) > room]
        return found if found or self.needs(measure) <= room else [" | ".join(self.words())]

    def needs(self, measure):
        """Pixels from side to side."""
        each = [part.needs(measure) if isinstance(part, Fake) else measure(part) for part in self.parts]
        return sum(each) if self.wide else max(each, default=0)

    def words(self):
        for part in self.parts:
            yield from part.words() if isinstance(part, Fake) else [part]

    def _icon(self, icon):
        assert icon in KNOWN_ICONS, f"Blender {bpy.app.version_string} has no icon {icon}"

    def separator(self, **_):
        pass

    def menu(self, menu, text=None, icon="NONE", **_):
        self._icon(icon)
        assert hasattr(bpy.types, menu), f"there is no menu {menu}"
        self.top.menus.append(menu)
        self.parts.append(self._shown(text if text is not None else getattr(bpy.types, menu).bl_label))

    def label(self, text="", icon="NONE", translate=True, **_):
        self._icon(icon)
        assert isinstance(text, str)
        self.top.texts.append(self.language.get(text, text) if translate else text)
        if self.wide:
            self.parts.append("")  # gives way; its own width is another test's

    def operator(self, idname, text=None, icon="NONE", emboss=True, **_):
        self._icon(icon)
        module, name = idname.split(".")
        operator = getattr(getattr(bpy.ops, module), name)
        rna = operator.get_rna_type()  # raises where there is no such operator
        chosen = Properties({p.identifier for p in rna.properties})
        text = text if text is not None else rna.name
        self.top.operators.append((idname, text, chosen))
        self.parts.append(self._shown(text))
        return chosen

    def _shown(self, text):
        return self.language.get(text, text)

    def prop(self, data, name, text=None, icon="NONE", **_):
        self._icon(icon)
        self.parts.append("")
        assert name in data.bl_rna.properties, f"{data} has no property {name}"
        self.top.props.append(name)

    textbox = None  # removed below: only from 5.2

    def progress(self, factor=0.0, type="BAR", text="", **_):
        assert 0 <= factor <= 1
        self.top.bars.append((round(factor, 2), text))

    def template_list(self, kind, _id, data, name, active_data, active, **_):
        assert hasattr(bpy.types, kind) and {name, active} <= set(data.bl_rna.properties.keys())
        self.top.lists.append(name)
        shown = getattr(bpy.types, kind)
        for item in getattr(data, name):
            shown.draw_item(SimpleNamespace(), bpy.context, self.row(), data, item, 0, active_data, active)

    def template_icon(self, icon_value, scale=1.0):
        self.top.icons.append(icon_value)

    def said(self):
        return "\n".join(self.top.texts)

    def buttons(self):
        return [text for _, text, _ in self.top.operators]


del Fake.textbox
if "textbox" in bpy.types.UILayout.bl_rna.functions:
    Fake.textbox = Fake.prop


class Properties:
    """Of an operator's button: only those that it has."""

    def __init__(self, known):
        object.__setattr__(self, "_known", known)

    def __setattr__(self, name, value):
        assert name in self._known, f"no property {name}"
        object.__setattr__(self, name, value)


def draw(panel, open_panels=True):
    """What this panel class draws now; None where it is not shown."""
    if hasattr(panel, "poll") and not panel.poll(bpy.context):
        return None
    fake = Fake(open_panels=open_panels)
    instance = type("Instance", (), {"layout": fake})()
    panel.draw(instance, bpy.context)
    return fake
