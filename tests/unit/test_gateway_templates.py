"""Path templates and routes: the whole grammar, most specific first, the same as a naive matcher says."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.routing.router import Conflict, Found, Router, WrongMethod
from gateway.routing.template import Template, Variable, Wildcard, parse

ONE, REST = Wildcard.ONE, Wildcard.REST
REFUSED = [
    ("", "expected /"),
    ("v1", "expected /"),
    ("/", "expected a segment"),
    ("/v1/", "expected a segment"),
    ("/v1//x", "expected a segment"),
    ("/v1/{", "expected a field"),
    ("/v1/{a", "expected }"),
    ("/v1/{a}b", "a segment ends"),
    ("/v1/{1a}", "expected a field"),
    ("/v1/{a.}", "expected a field"),
    ("/v1/{a={b}}", "cannot have another one"),
    ("/v1/{a=}", "expected a segment"),
    ("/v1/**/x", "only be the last"),
    ("/v1/{a=**}/{b}", "only be the last"),
    ("/v1/{a}/{a}", "a is there more than once"),
    ("/v1/x*", "a segment ends"),
    ("/v1/x:", "expected a verb"),
    ("/v1/x:do/more", "a verb ends"),
    ("/v1/x:do:more", "a verb ends"),
    ("/v1/x?y=1", "a segment ends"),
    ("/v1/%zz", "expected a segment"),
    ("/v1/a b", "a segment ends"),
]


@pytest.mark.parametrize(
    ("text", "segments", "verb", "variables"),
    [
        ("/v1/orders", ("v1", "orders"), "", ()),
        ("/.well-known/jwks.json", (".well-known", "jwks.json"), "", ()),
        ("/v1/{order_id}", ("v1", ONE), "", (Variable("order_id", 1, 2),)),
        ("/v1/{a.b.c}:cancel", ("v1", ONE), "cancel", (Variable("a.b.c", 1, 2),)),
        ("/{a=x/*/y}/*:v", ("x", ONE, "y", ONE), "v", (Variable("a", 0, 3),)),
        ("/v1/{a=x/**}", ("v1", "x", REST), "", (Variable("a", 1, None),)),
        ("/v1/**:v", ("v1", REST), "v", ()),
        ("/caf%C3%A9", ("café",), "", ()),
    ],
)
def test_a_template_is_read(
    text: str, segments: tuple[str | Wildcard, ...], verb: str, variables: tuple[Variable, ...]
) -> None:
    assert parse(text) == Template(text, segments, verb, variables)


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_a_malformed_template_is_refused_and_says_where(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse(text)


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/{a}", "/v1/x", {"a": "x"}),
        ("/v1/{a}", "/v1/x%2Fy%20z", {"a": "x/y z"}),
        ("/v1/{a}", "/v1/%C3%A9", {"a": "é"}),
        ("/v1/{a=x/*}", "/v1/x/y%2Fz%20", {"a": "x/y%2Fz "}),
        ("/v1/{a=x/*}", "/v1/x/y%2fz", {"a": "x/y%2fz"}),
        ("/v1/{a=**}", "/v1/x/y/z%20", {"a": "x/y/z "}),
        ("/v1/{a=**}", "/v1", {"a": ""}),
        ("/v1/{a=**}", "/v1/", {"a": ""}),
        ("/v1/{a=**}", "/v1/x//", {"a": "x//"}),
        ("/v1/{a}/{b}:do", "/v1/x/y:do", {"a": "x", "b": "y"}),
        ("/v1/{a}:do", "/v1/x:y:do", {"a": "x:y"}),
        ("/v1/{a}", "/v1/x:y", {"a": "x:y"}),
        ("/v1/{a}", "/v1/x%3Ado", {"a": "x:do"}),
        ("/v1/{a}", "/v1/+", {"a": "+"}),
    ],
)
def test_variables_are_captured_and_decoded(template: str, path: str, values: dict[str, str]) -> None:
    assert captured(template, path) == values


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/{a}", "/v1"),
        ("/v1/{a}", "/v1/"),
        ("/v1/{a}", "/v1/x/"),
        ("/v1/{a}", "/v1/x/y"),
        ("/v1/x", "/v1/x/"),
        ("/v1/x", "/v1//x"),
        ("/v1/x", "/V1/x"),
        ("/v1/{a}:do", "/v1/x"),
        ("/v1/{a}:do", "/v1/x%3Ado"),
        ("/v1/{a}:do", "/v1/:do"),
        ("/v1/{a=x/**}", "/v1/y"),
    ],
)
def test_another_path_does_not_match(template: str, path: str) -> None:
    assert router(("GET", template)).find("GET", path) is None


@pytest.mark.parametrize("path", ["/v1/%", "/v1/%f", "/v1/%zz", "/v1/%ff"])
def test_a_path_that_cannot_be_decoded_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|decode"):
        router(("GET", "/v1/{a}")).find("GET", path)


def test_the_most_specific_route_wins_whatever_the_order() -> None:
    templates = ["/**", "/v1/**", "/v1/*/x", "/v1/{a}/*", "/v1/y/{b}", "/v1/y/x", "/v1/y/x:do"]
    expected = {
        "/v1/y/x:do": "/v1/y/x:do",
        "/v1/y/x": "/v1/y/x",
        "/v1/y/z": "/v1/y/{b}",
        "/v1/z/x": "/v1/*/x",
        "/v1/z/z": "/v1/{a}/*",
        "/v1/y": "/v1/**",
        "/v2": "/**",
    }
    for order in (templates, templates[::-1]):
        found = router(*(("GET", one) for one in order))
        assert {path: route(found.find("GET", path)) for path in expected} == expected


def test_a_literal_that_leads_nowhere_does_not_hide_a_variable() -> None:
    found = router(("GET", "/v1/x/y"), ("GET", "/v1/{a}/z"))
    assert route(found.find("GET", "/v1/x/z")) == "/v1/{a}/z"


def test_the_wrong_method_tells_which_are_right() -> None:
    found = router(("GET", "/v1/{a}"), ("PATCH", "/v1/{a}"), ("POST", "/v1/{a}:do"))
    assert found.find("DELETE", "/v1/x") == WrongMethod(("GET", "HEAD", "PATCH"))
    assert found.find("GET", "/v1/x:do") == WrongMethod(("POST",))
    assert route(found.find("HEAD", "/v1/x")) == "/v1/{a}"


def test_a_route_of_any_method_stands_behind_those_of_one() -> None:
    found = router(("*", "/v1/{a}"), ("PUT", "/v1/{b}"))
    assert (route(found.find("PUT", "/v1/x")), route(found.find("BREW", "/v1/x"))) == ("/v1/{b}", "/v1/{a}")


@pytest.mark.parametrize(
    ("one", "other"), [("/v1/{a}", "/v1/{b.c}"), ("/v1/{a=x/*}", "/v1/x/*"), ("/v1/%41", "/v1/A"), ("/**", "/{a=**}")]
)
def test_routes_for_the_same_paths_are_in_conflict(one: str, other: str) -> None:
    with pytest.raises(Conflict) as conflict:
        router(("GET", one), ("GET", other))
    assert conflict.value.other == one


SEGMENTS = st.sampled_from(["a", "b", "c d", "é", "x:y", "%", ""])
PIECES = st.sampled_from(["a", "b", "*", "{v}", "{w=*}"])


@st.composite
def template_texts(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(PIECES, max_size=3, unique_by=lambda piece: piece if piece[0] == "{" else object()))
    end = draw(st.sampled_from(["", "/a", "/**", "/{z=**}", "/{z=a/*}", "/{z=a/**}"]))
    verb = draw(st.sampled_from(["", ":do", ":y"]))
    text = "".join(f"/{piece}" for piece in pieces) + end
    assume(text)
    return text + verb


@st.composite
def paths(draw: st.DrawFn) -> str:
    segments = draw(st.lists(SEGMENTS, min_size=1, max_size=5))
    verb = draw(st.sampled_from(["", "", ":do", ":y"]))
    return "/" + "/".join(quote(one, safe=":") for one in segments) + verb


@given(text=template_texts(), data=st.data())
def test_a_template_matches_what_it_generates(text: str, data: st.DataObject) -> None:
    template = parse(text)
    values = st.text(min_size=1, max_size=4).filter(lambda value: not re.search(r"[\ud800-\udfff]", value))
    shown: list[str] = []
    for segment in template.segments:
        if segment is REST:
            shown += data.draw(st.lists(values, max_size=3))
        else:
            shown.append(data.draw(values) if segment is ONE else str(segment))
    path = "/" + "/".join(quote(one, safe="") for one in shown) + (f":{template.verb}" if template.verb else "")
    assume(shown)
    found = router(("GET", text)).find("GET", path)
    assert isinstance(found, Found)
    for variable in template.variables:
        part = shown[variable.start : variable.end]
        single = variable.end == variable.start + 1
        expected = part[0] if single else "/".join(one.replace("/", "%2F") for one in part)
        assert variable.capture(found.segments) == expected


@given(st.lists(st.tuples(st.sampled_from(["GET", "POST", "*"]), template_texts()), max_size=8), paths())
def test_the_router_agrees_with_a_naive_matcher(declared: list[tuple[str, str]], path: str) -> None:
    routes = {(method, parse(text).shape): (method, text) for method, text in declared}
    found = router(*routes.values())
    for method in ("GET", "HEAD", "POST"):
        expected = naive([(one, parse(text)) for one, text in routes.values()], method, path)
        got = found.find(method, path)
        shown = got.allowed if isinstance(got, WrongMethod) else route(got)
        assert shown == expected


def naive(routes: list[tuple[str, Template]], method: str, path: str) -> str | tuple[str, ...] | None:
    """Say which template is to be found, by trying all of them."""
    head, colon, verb = path.rpartition(":")
    splits = [(head, verb)] if colon and "/" not in verb else []
    for rest, wanted in [*splits, (path, "")]:
        fitting = [(one, template) for one, template in routes if template.verb == wanted and fits(template, rest)]
        for _, template in sorted(fitting, key=lambda pair: rank(pair[1])):
            methods = {one: other.text for one, other in fitting if other.shape == template.shape}
            for candidate in (method, "GET" if method == "HEAD" else method, "*"):
                if candidate in methods:
                    return methods[candidate]
        if fitting:
            allowed = {one for one, _ in fitting}
            return tuple(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
    return None


def fits(template: Template, path: str) -> bool:
    wild = {ONE: "/[^/]+", REST: "(/.*)?"}
    pattern = "".join(
        wild[one] if isinstance(one, Wildcard) else f"/{re.escape(quote(one, safe=':'))}" for one in template.segments
    )
    return re.fullmatch(pattern, path) is not None


def rank(template: Template) -> list[int]:
    return [2 if one is REST else 1 if one is ONE else 0 for one in template.segments]


def router(*routes: tuple[str, str]) -> Router[str]:
    made: Router[str] = Router()
    for method, text in routes:
        made.add(method, parse(text), text)
    return made


def route(found: Found[str] | WrongMethod | None) -> str | None:
    return found.route if isinstance(found, Found) else None


def captured(text: str, path: str) -> dict[str, str]:
    found = router(("GET", text)).find("GET", path)
    assert isinstance(found, Found)
    return {one.field: one.capture(found.segments) for one in parse(text).variables}
