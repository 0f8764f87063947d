"""Chat templates of formats that have a name.

transformers renders them with ``messages`` (each with ``role`` and ``content``), the tokenizer's
``bos_token`` and ``eos_token``, and ``add_generation_prompt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Each turn between two marks, named by its role.
CHATML: Final = """\
{%- for turn in messages -%}
{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
#: Llama 3: a header with the role, an empty line, the text, the end of the turn.
LLAMA3: Final = """\
{{- bos_token -}}
{%- for turn in messages -%}
{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' }}
{{- turn['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
"""
#: Mistral Instruct: users between [INST] marks; a system message goes before the first question.
MISTRAL: Final = """\
{{- bos_token -}}
{%- set turns = messages -%}
{%- set before = '' -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set turns = messages[1:] -%}
{%- set before = messages[0]['content'] + '\\n\\n' -%}
{%- endif -%}
{%- for turn in turns -%}
{%- set wanted = 'assistant' if loop.index0 % 2 else 'user' -%}
{%- if turn['role'] != wanted -%}
{{ raise_exception('expected turns of user and assistant in turn, beginning with the user') }}
{%- elif wanted == 'user' -%}
{{ ' [INST] ' + (before if loop.first else '') + turn['content'] + ' [/INST]' }}
{%- else -%}
{{ ' ' + turn['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}
"""
#: Alpaca: headings in plain text, an empty line between parts.
ALPACA: Final = """\
{%- for turn in messages -%}
{%- if turn['role'] == 'system' -%}
{{ turn['content'] | trim + '\\n\\n' }}
{%- elif turn['role'] == 'user' -%}
{{ '### Instruction:\\n' + turn['content'] | trim + '\\n\\n' }}
{%- else -%}
{{ '### Response:\\n' + turn['content'] | trim + eos_token + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
"""
#: EXAONE 3: a mark for each role; system and assistant end with one, the user with a new line.
EXAONE: Final = """\
{%- if not messages or messages[0]['role'] != 'system' -%}
{{ '[|system|][|endofturn|]\\n' }}
{%- endif -%}
{%- for turn in messages -%}
{{ '[|' + turn['role'] + '|]' + turn['content'] }}
{{- '\\n' if turn['role'] == 'user' else '[|endofturn|]\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '[|assistant|]' }}
{%- endif -%}
"""
TEMPLATES: Final[Mapping[str, str]] = {
    "alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL,
}  # fmt: skip
#: What each writes that has to be one token; the last ends a turn of the assistant.
MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "exaone": ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
