"""POST /tokenize and /detokenize."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dllama.server.admission import prepared
from dllama.server.api import Api
from dllama.server.errors import ApiError
from dllama.server.http import json_response
from dllama.server.inputs import check_ids, check_n_tokens, check_room
from dllama.server.prompt import chat_prompt
from dllama.server.requests import DetokenizeRequest, TokenizeRequest
from dllama.server.responses import DetokenizedText, Tokens
from dllama.server.served import ServedModel


async def tokenize(api: Api, request: Request, body: TokenizeRequest) -> Response:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError("give either prompt or messages", param="prompt")
    served = api.model(body.model)
    (place,), ids = await prepared(api, request, served, 1, _ids, served, body)
    place.cancel()
    return json_response(Tokens(tokens=ids, count=len(ids), max_model_len=served.max_seq_len))


async def detokenize(api: Api, request: Request, body: DetokenizeRequest) -> Response:
    served = api.model(body.model)
    check_n_tokens(len(body.tokens), served, "tokens")
    ids = check_ids(body.tokens, served, "tokens")
    (place,), text = await prepared(api, request, served, 1, served.tokenizer.decode, ids)
    place.cancel()
    return json_response(DetokenizedText(prompt=text))


def _ids(served: ServedModel, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        prompt = chat_prompt(
            served,
            body.messages,
            tools=body.tools or (),
            variables=body.chat_template_kwargs,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
        )
        return prompt.ids
    assert body.prompt is not None
    check_room([body.prompt], served, "prompt")
    add_bos = served.tokenizer.add_bos if body.add_special_tokens is None else body.add_special_tokens
    return served.tokenizer.encode(
        body.prompt, add_bos=add_bos, parse_special=body.parse_special is not False
    )
