"""A template's syntax tree, changed so that whatever it does is paid for.

Knows: Jinja's nodes. Every straight stretch of statements (the body of a loop, a branch, a macro) begins with a tick
that pays for its nodes, its own text and its literals, as the blocks of a metered virtual machine do; operations that
Jinja compiles to plain Python (`~`, comparisons, slices, what a loop goes over) become calls of `Operations`.
Refuses to know: what the operations do, what is left of the budget.

The functions are reached as filters whose names no template can spell.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError

from slmchat.conversation.template_budget import MAX_DEPTH, MAX_NUMBER, NESTED, NUMBERS, TooMuch
from slmchat.lazy_dataclasses import dataclass

TICK = "slm tick"
ITEMS = "slm items"
CONCAT = "slm concat"
CHAIN = "slm chain"
SLICE = "slm slice"
DICTIONARY = "slm dictionary"
WRITTEN = "slm written"
COMPARE = {name: f"slm {name}" for name in ("eq", "ne", "lt", "lteq", "gt", "gteq", "in", "notin")}

_CALL_STEPS = 20  # of a call or a filter; any other node is one step, an operator or an attribute five
_OPERATOR_STEPS = 5
_TICK_STEPS = 5  # of what pays
_OBJECT = 64  # bytes
_SMALL = 20  # steps: a branch as short as this is paid for by the statements around it, whether it is taken or not
_SHORT = 64  # characters: comparing with a literal of this length costs nothing worth counting
_MAX_LEVELS = 2 * MAX_DEPTH

# No template stands beside another one, and nothing is escaped for HTML.
_REFUSED: Mapping[type[nodes.Node], str] = {
    nodes.Extends: "extends", nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "import",
    nodes.EvalContextModifier: "autoescape", nodes.ScopedEvalContextModifier: "autoescape",
}  # fmt: skip


def metered(template: nodes.Template) -> nodes.Template:
    """The tree, in place.

    Raises `TooMuch` for what is too deep or too large, `TemplateSyntaxError` for what is not there.
    """
    template.body = _Metering().block(template.body, is_called=True)
    return template


@dataclass
class _Cost:
    """Of the statements since the last tick."""

    steps: int = 0
    made: int = 0
    written: int = 0


class _Metering:
    def __init__(self) -> None:
        self._cost = _Cost()
        self._levels = 0

    def block(self, statements: list[Any], *, is_called: bool, inside: _Cost | None = None) -> list[Any]:
        """Statements that run together. `is_called`: also again and again, so they always pay for themselves."""
        around, self._cost = self._cost, inside or _Cost(steps=_TICK_STEPS)
        body = [self._node(statement) for statement in statements]
        cost, self._cost = self._cost, around
        if not is_called and cost.steps <= _SMALL and not cost.written:
            around.steps += cost.steps
            around.made += cost.made
            return body
        return [nodes.ExprStmt(_tick(cost), lineno=_line(statements)), *body]

    def _node(self, node: Any) -> Any:
        if not isinstance(node, nodes.Node):
            return node
        self._levels += 1
        if self._levels > _MAX_LEVELS:
            raise TooMuch(NESTED)
        self._cost.steps += 1
        if type(node) in _REFUSED:
            raise TemplateSyntaxError(f"{{% {_REFUSED[type(node)]} %}} is not part of chat templates", node.lineno)
        visit = getattr(self, f"_{type(node).__name__.lower()}", self._children)
        result = visit(node)
        self._levels -= 1
        return result

    def _children(self, node: nodes.Node, *, but: tuple[str, ...] = ()) -> nodes.Node:
        for name, value in node.iter_fields(exclude=but):
            if isinstance(value, list):
                value[:] = [self._node(child) for child in value]
            elif isinstance(value, nodes.Node):
                setattr(node, name, self._node(value))
        return node

    # statements

    def _for(self, node: nodes.For) -> nodes.Node:
        node.iter = _call(ITEMS, self._node(node.iter))
        node.target = self._node(node.target)
        if node.test is not None:
            around, self._cost = self._cost, _Cost(steps=_TICK_STEPS)
            test = self._node(node.test)
            node.test = nodes.And(_tick(self._cost), test, lineno=test.lineno)
            self._cost = around
        node.body = self.block(node.body, is_called=True, inside=_Cost(steps=_TICK_STEPS))
        node.else_ = self.block(node.else_, is_called=False) if node.else_ else []
        return node

    def _if(self, node: nodes.If) -> nodes.Node:
        node.test = self._node(node.test)
        node.body = self.block(node.body, is_called=False)
        node.elif_ = [self._node(branch) for branch in node.elif_]
        node.else_ = self.block(node.else_, is_called=False) if node.else_ else []
        return node

    def _macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        around, self._cost = self._cost, _Cost(steps=_CALL_STEPS)
        node.args = [self._node(argument) for argument in node.args]
        node.defaults = [self._node(default) for default in node.defaults]
        inside, self._cost = self._cost, around
        node.body = self.block(node.body, is_called=True, inside=inside)
        return node

    def _callblock(self, node: nodes.CallBlock) -> nodes.Node:
        node.call = self._node(node.call)
        return self._macro(node)

    def _filterblock(self, node: nodes.FilterBlock) -> nodes.Node:
        self._children(node)
        node.filter = _call(WRITTEN, node.filter)  # Jinja writes it as it is
        return node

    def _block(self, node: nodes.Block) -> nodes.Node:
        node.body = self.block(node.body, is_called=True)
        return node

    def _output(self, node: nodes.Output) -> nodes.Node:
        children = []
        for child in node.nodes:
            if isinstance(child, nodes.Const) and isinstance(child.value, str):
                child = nodes.TemplateData(child.value, lineno=child.lineno)
            self._cost.made += _OBJECT
            children.append(self._node(child))
        node.nodes = children
        return node

    def _templatedata(self, node: nodes.TemplateData) -> nodes.Node:
        self._cost.written += len(node.data)
        return node

    # expressions

    def _const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, int) and abs(node.value) > MAX_NUMBER:
            raise TooMuch(NUMBERS)
        return node

    def _concat(self, node: nodes.Concat) -> nodes.Node:
        self._cost.steps += _OPERATOR_STEPS
        self._children(node)
        return _call(CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def _binexpr(self, node: nodes.BinExpr) -> nodes.Node:
        self._cost.steps += _OPERATOR_STEPS
        return self._children(node)

    _add = _sub = _mul = _div = _floordiv = _mod = _pow = _binexpr

    def _compare(self, node: nodes.Compare) -> nodes.Node:
        self._children(node)
        if len(node.ops) == 1:
            operand = node.ops[0]
            if _is_cheap(operand.op, node.expr, operand.expr):
                return node
            self._cost.steps += _OPERATOR_STEPS
            return _call(COMPARE[operand.op], node.expr, operand.expr)
        self._cost.steps += _OPERATOR_STEPS * len(node.ops)
        rest: list[nodes.Expr] = []
        for operand in node.ops:
            rest += [nodes.Const(operand.op, lineno=node.lineno), operand.expr]
        return _call(CHAIN, node.expr, *rest)

    def _getitem(self, node: nodes.Getitem) -> nodes.Node:
        self._cost.steps += _OPERATOR_STEPS
        self._children(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _call(SLICE, node.node, *(bound or nodes.Const(None, lineno=node.lineno) for bound in bounds))

    _getattr = _nsref = _binexpr

    def _list(self, node: nodes.List | nodes.Tuple) -> nodes.Node:
        self._cost.made += _OBJECT * (1 + len(node.items))
        return self._children(node)

    _tuple = _list

    def _dict(self, node: nodes.Dict) -> nodes.Node:
        self._cost.made += 2 * _OBJECT * (1 + len(node.items))
        self._children(node)
        if all(isinstance(pair.key, nodes.Const) for pair in node.items):
            return node
        keys = nodes.List([pair.key for pair in node.items], lineno=node.lineno)
        values = nodes.List([pair.value for pair in node.items], lineno=node.lineno)
        return _call(DICTIONARY, keys, values)

    def _called(self, node: nodes.Call | nodes.Filter | nodes.Test) -> nodes.Node:
        self._cost.steps += _CALL_STEPS
        self._cost.made += _OBJECT
        self._children(node)
        if node.dyn_args is not None:
            node.dyn_args = _call(ITEMS, node.dyn_args)
        return node

    _call = _filter = _test = _called


def _is_cheap(operator: str, left: nodes.Expr, right: nodes.Expr) -> bool:
    """Whether a comparison costs next to nothing whatever the other side is: Python does it without being watched."""
    if operator in ("eq", "ne"):
        return _is_short(left) or _is_short(right)
    if operator in ("in", "notin") and isinstance(right, nodes.List | nodes.Tuple):
        return all(_is_short(item) for item in right.items)
    return False


def _is_short(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and not (isinstance(node.value, str) and len(node.value) > _SHORT)


def _tick(cost: _Cost) -> nodes.Filter:
    return _call(TICK, *(nodes.Const(value, lineno=1) for value in (cost.steps, cost.made, cost.written)))


def _call(name: str, first: nodes.Expr, *rest: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(first, name, list(rest), [], None, None, lineno=first.lineno)


def _line(statements: list[Any]) -> int:
    return statements[0].lineno if statements else 1
