"""What a template cannot do: take long, fill the memory, write without end, or write what is no text."""

from __future__ import annotations

import pytest

from rlaif.core.errors import TemplateError
from rlaif.core.records import Message, Prompt
from rlaif.inputs.template_language import LARGEST, LONGEST, ROOM, ROOM_EACH
from rlaif.inputs.templates import Template, TemplateKind

KIND = TemplateKind("own", {"prompt": Prompt, "response": str, "number": int})
PROMPT = Prompt((Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Well")))
GROWING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = NEXT %}{% endfor %}done"


def user(text: str) -> str:
    return '{% message "user" %}' + text + "{% endmessage %}"


def growing(start: str, following: str) -> str:
    return GROWING.replace("START", start).replace("NEXT", following)


def written(text: str, response: str = "mine") -> str:
    rendered = Template(KIND, user(text)).render(prompt=PROMPT, response=response, number=3)
    return rendered.messages[0].content


def refused(text: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        Template(KIND, text)
    assert "own.jinja" in str(caught.value.where)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) if false %}{{ i }}{% for j in range(99) %}{{ j }}{% endfor %}{% endfor %}"
        "{% for i in range(9999) %}{% for j in range(9999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "words " * 100 + "{% endfor %}",
        "{{ 'a' | indent(3000000000, true) }}",
        "{{ range(99999) | map('replace', '', 'a' ~ response ~ response ~ response) | join }}",
        "{{ range(99999) | join('a longer text than there is room for') }}",
        growing("'a'", "ns.x ~ ns.x"),
        growing("'a'", "ns.x + ns.x"),
        growing("[1]", "ns.x + ns.x"),
        growing("'a'", "ns.x | replace('a', 'aa')"),
        growing("'a'", "[ns.x, ns.x] | join"),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% endfor %}",
    ],
)
def test_a_template_has_room_for_so_many_steps(text: str) -> None:
    error = refused("\n" + user(text))
    assert error.where == "own.jinja:2"
    assert "takes more than 1,00" in error.what
    assert f"{ROOM:,} steps, and {ROOM_EACH} for each character" in str(error.remedy)


def test_macros_that_call_each_other_have_no_more_room() -> None:
    macro = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    assert "takes more than" in refused(macro + user("{{ m(60) }}")).what
    assert "deep" in refused("{% macro m() %}{{ m() }}{% endmacro %}" + user("{{ m() }}")).what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ 9 ** 9 ** 9 }}", "** is not there"),
        ("{{ 'a' * 3000000000 }}", "* is for numbers"),
        ("{% if [1] * 3000000000 %}{% endif %}", "* is for numbers"),
        ("{{ '%03000000000d' % 1 }}", "% is for numbers"),
        ("{{ '{:3000000000}'.format(1) }}", "format cannot be called"),
        ("{{ 'a'.center(3000000000) }}", "center cannot be called"),
        ("{{ response.replace('', response) }}", "replace cannot be called"),
        ("{{ prompt.of_text('a') }}", "of_text cannot be called"),
        ("{{ '%0999d' | format(1) }}", "format"),
        ("{{ 'a' | center(3000000000) }}", "center"),
        ("{% for i in 'a' recursive %}{{ loop('b') }}{% endfor %}", "recursive"),
        ("{% block a %}{% endblock %}", "blocks"),
        (growing("3", "ns.x * ns.x"), "a number beyond 10^18"),
        (growing("[1]", "(ns.x, ns.x)"), "a list in a list in a list"),
        (growing("{'a': 1}", "{'a': ns.x, 'b': ns.x}"), "a list in a list in a list"),
        ("{{ " + "9" * 5000 + " }}", "5000 digits"),
        ("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "deep"),
        ("{% if 1 %}" * 300 + "{% endif %}" * 300, "deep"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "deep"),
        ("{{ 1" + " + 1" * 3000 + " }}", "deep"),
        ("a" * LONGEST, f"more than {LONGEST:,}"),
    ],
)
def test_what_makes_much_of_little_is_not_there(text: str, words: str) -> None:
    assert words in refused(user(text)).what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{ prompt.messages | map(attribute='contents') | list }}", "a list is no text"),
        ("{{ prompt.messages | map(attribute='contents') | join }}", "contents"),
        ("{{ prompt.messages | list | upper }}", "a list is no text"),
        ("{{ prompt.messages ~ '' }}", "a tuple is no text"),
        ("{{ prompt }}", "a Prompt is no text"),
        ("{{ response.strip }}", "is no text"),
    ],
)
def test_what_is_no_text_is_not_written(text: str, what: str) -> None:
    assert what in refused(user(text)).what


def test_the_language_does_what_prompts_need() -> None:
    assert written("{{ number + 1 }} {{ 7 * 6 }} {{ 7 % 4 }} {{ 2.345 | round(1) }} {{ none }}") == "4 42 3 2.3 None"
    assert written("{{ [1, 2] | join('-') }} {{ 'a' ~ 1 ~ 2.5 }} {{ 'x y'.split() | last | upper }}") == "1-2 a12.5 Y"
    assert written("{{ prompt.messages | map(attribute='content') | join(', ') }}") == "Hi, Yes?, Well"
    assert written("{{ 'a\nb\n\nc' | indent(2) }}") == "a\n  b\n\n  c"
    assert written("{{ 'a\nb\n\nc' | indent('> ', true, true) }}") == "> a\n> b\n> \n> c"
    assert written("{{ 'banana' | replace('a', 'o', 2) }} {{ response[:2] }}") == "bonona mi"
    assert written("{% filter upper %}{{ response }}{% endfilter %}{% set x | trim %} y {% endset %}{{ x }}") == "MINEy"
    pairs = "{% for name, text in (('A', response), ('B', 'b')) %}{{ loop.index }}{{ name }}{{ text }}{% endfor %}"
    assert written(pairs) == "1Amine2Bb"
    assert written(
        "{% for m in prompt.messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {% endfor %}"
    ) == ("1/2 2/2")
    assert written("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}") == "a1b2"
    assert written("{{ " + str(LARGEST - 1) + " + 1 }}") == str(LARGEST)


def test_what_is_given_can_always_be_quoted() -> None:
    lines = "a line\n" * 300_000
    assert written("{{ response | quote }}", lines).count("> ") == 300_000
