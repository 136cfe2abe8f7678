"""Chat templates that tunesmith brings along."""

from __future__ import annotations

PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' }}{{ message['content'].strip() }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
"""For a base without a template of its own: ``User: ...`` and ``Assistant: ...`` on lines of their own, with the end
of text after each answer. It needs no token that the base does not know."""
