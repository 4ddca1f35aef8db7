"""Which part of a chat is learned, in the forms that models' chat templates have."""

import pytest
from transformers import PreTrainedTokenizerBase

from apiq_core.errors import UserError
from apiq_core.finetune.data.chat import SHOWN_CHARACTERS, UnfitChat, chat_segments
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "<think>\nT1\n</think>\n\nA1"},
    {"role": "user", "content": "Q2"},
    {"role": "assistant", "content": "<think>\nT2\n</think>\n\nA2"},
]
THOUGHTS = ("<think>\nT1\n</think>\n\n", "<think>\nT2\n</think>\n\n")
TOOL = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "call"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "A"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as Qwen3: behind the last question thoughts are written, before it they are left out
QWEN3 = """
{%- set ns = namespace(asked=messages|length - 1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
  {%- set thought, said = '', m.content %}
  {%- if '</think>' in said %}
    {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}
    {%- set said = said.split('</think>')[-1].lstrip('\n') %}
  {%- endif %}
  {{- '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' }}
  {%- if m.role == 'assistant' and loop.index0 > ns.asked and (loop.last or thought) %}
    {{- '<think>\n' + thought + '\n</think>\n\n' }}
  {%- endif %}
  {{- said + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
# as its models that always think, and as DeepSeek-R1: the template opens the thoughts
OPENED = QWEN3.replace("assistant\n' }}", "assistant\n<think>\n' }}")
# as SmolLM3: turns are marked with their headers, which are not learned all the same
SMOLLM3 = """{{ '<|im_start|>system\n## Custom Instructions\n\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{{- '<|im_end|>\n' }}
{%- for m in messages %}
  {%- if m.role == 'assistant' %}
    {%- generation %}{{ '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}
    {%- endgeneration %}
  {%- elif m.role != 'system' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# as Mistral-Nemo: the system's message moves to the last question
MISTRAL = """<s>
{%- set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- set last = messages | selectattr('role', 'equalto', 'user') | list | last %}
{%- for m in messages if m.role != 'system' %}
  {%- if m.role == 'user' %}{{ '[INST] ' + (system if m == last else '') + m.content + '[/INST]' }}
  {%- else %}{{ ' ' + m.content + '</s>' }}{% endif %}
{%- endfor %}"""
# as Phi-3 and gpt-oss: at the end of the chat something stands that is at no other turn's end
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(make_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def marked(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]]
) -> str:
    tokenizer.chat_template = template
    return "".join(
        f"[[{s.text}]]" if s.learned else s.text for s in chat_segments(messages, tokenizer)
    )


@pytest.mark.parametrize(
    ("template", "messages", "wanted"),
    [
        pytest.param(
            CHATML,
            [SYSTEM, *CHAT],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
            "<|im_start|>assistant\n[[{0}A1<|im_end|>\n]]<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n[[{1}A2<|im_end|>\n]]",
            id="chatml",
        ),
        pytest.param(
            QWEN3,
            CHAT,
            "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[[A1<|im_end|>\n]]"
            "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[[{1}A2<|im_end|>\n]]",
            id="thoughts are dropped",
        ),
        pytest.param(
            QWEN3,
            TOOL,
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n[[call<|im_end|>\n]]"
            "<|im_start|>user\n42<|im_end|>\n<|im_start|>assistant\n"
            "[[<think>\n\n</think>\n\nA<|im_end|>\n]]",
            id="an empty thought is added",
        ),
        pytest.param(
            QWEN3,
            CHAT[1:2],
            "<|im_start|>assistant\n[[A1<|im_end|>\n]]",
            id="nobody asked",
        ),
        pytest.param(
            OPENED,
            CHAT,
            "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[[A1<|im_end|>\n]]"
            "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n<think>\n"
            "[[T2\n</think>\n\nA2<|im_end|>\n]]",
            id="thoughts are opened",
        ),
        pytest.param(
            SMOLLM3,
            [SYSTEM, *CHAT],
            "<|im_start|>system\n## Custom Instructions\n\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[[{0}A1<|im_end|>\n]]"
            "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[[{1}A2<|im_end|>\n]]",
            id="turns are marked",
        ),
        pytest.param(
            LLAMA3,
            [CHAT[0], {"role": "assistant", "content": " A1\n"}, *CHAT[2:]],
            "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[[A1<|eot_id|>]]"
            "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[[{1}A2<|eot_id|>]]",
            id="llama-3",
        ),
        pytest.param(
            GEMMA,
            CHAT,
            "<start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n[[{0}A1<end_of_turn>\n]]"
            "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n[[{1}A2<end_of_turn>\n]]",
            id="gemma",
        ),
        pytest.param(
            MISTRAL,
            [SYSTEM, *CHAT],
            "<s>[INST] Q1[/INST] [[{0}A1</s>]][INST] Be brief.\n\nQ2[/INST][[ {1}A2</s>]]",
            id="mistral",
        ),
        pytest.param(
            PHI3,
            CHAT,
            "<|user|>\nQ1<|end|>\n<|assistant|>\n[[{0}A1<|end|>\n<|]]user|>\nQ2<|end|>\n"
            "<|assistant|>\n[[{1}A2<|end|>\n<|endoftext|>]]",
            id="an end of the chat",  # half of a token is not learned
        ),
    ],
)
def test_what_the_assistant_says_is_learned(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]], wanted: str
) -> None:
    assert marked(tokenizer, template, messages) == wanted.format(*THOUGHTS)


def test_an_answer_is_not_mistaken_for_its_header(tokenizer: PreTrainedTokenizerBase) -> None:
    said = [{"role": "assistant", "content": "assistant"}, CHAT[0]]
    assert marked(tokenizer, CHATML, said) == (
        "<|im_start|>assistant\n[[assistant<|im_end|>\n]]<|im_start|>user\nQ1<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "a row: roles must alternate; legal: "),
        ("{{ raise_exception(messages[0].content * 500) }}", f"a row: {'Q1' * 100}; legal: "),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ 1 / 0 }}", "a row: division by zero; legal: "),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded"),
        ("{{ 'x' * 10 ** 18 }}", "a row: MemoryError; legal: "),
    ],
)
def test_a_template_may_raise_anything(
    tokenizer: PreTrainedTokenizerBase, template: str, said: str
) -> None:
    with pytest.raises(UnfitChat) as caught:
        marked(tokenizer, template, CHAT)
    assert caught.value.code == "chat_template_refuses"
    assert caught.value.message.startswith("the chat template refuses a row: ")
    assert said in caught.value.message
    assert len(caught.value.reason) <= SHOWN_CHARACTERS


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1].content }}",  # answers are missing
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[1].content }}",  # said twice
        "{% for m in messages %}{{ m.content }}{{ messages[1].content | length }}{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",  # the last one first
    ],
)
def test_answers_that_cannot_be_found(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    with pytest.raises(UserError, match="it cannot be told which tokens are the assistant's"):
        marked(tokenizer, template, CHAT)
