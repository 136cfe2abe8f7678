"""Chat templates that tunesmith brings along."""

from __future__ import annotations

_PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' }}{{ message['content'].strip() }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def plain(*, begin: bool) -> str:
    """The template for a base without one of its own: ``User: ...`` and ``Assistant: ...`` on lines of their own.

    The end of text follows each answer, and ``begin`` writes the beginning of text before all, as a tokenizer does that
    adds one to every text. No token is needed that the base does not know.
    """
    return ("{{ bos_token }}" if begin else "") + _PLAIN
