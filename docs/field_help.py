"""Shows the help of command-line arguments as the description of the field that holds them."""

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """A field such as `steps: int = field(default=50, metadata={"help": "…"})` is described by its help."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        """Give an attribute without a docstring its help."""
        value = getattr(node, "value", None)
        if attr.docstring or not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
            return
        for keyword in value.keywords:
            if value.func.id == "field" and keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
                texts = dict(zip(map(ast.unparse, keyword.value.keys), keyword.value.values, strict=True))
                text = texts.get("'help'")
                if isinstance(text, ast.Constant):
                    attr.docstring = griffe.Docstring(str(text.value), parent=attr)
                elif isinstance(text, ast.JoinedStr):
                    attr.docstring = griffe.Docstring(ast.unparse(text)[2:-1], parent=attr)
