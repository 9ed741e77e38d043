"""From an OpenAI request to a request of the engine: prompt tokens, limits, and what will be said."""

import uuid
from collections.abc import Sequence
from itertools import islice

from saga_fake.answers import ChatAnswer, CompletionAnswer
from saga_fake.config import FakeConfig
from saga_fake.messages import MessagesAnswer, MessagesRequest
from saga_fake.reply import DEFAULT_REPLY_TOKENS, Script, StopWatch, after, endless, invented
from saga_fake.requests import EngineRequest
from saga_fake.responses import ResponsesAnswer, ResponsesRequest
from saga_fake.tokens import chat_tokens, content_text, tokenise
from saga_fake.wire import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    check_model,
    completion_tokens,
    invalid,
    reply_budget,
)


class Front:
    """Checks requests and decides their replies; RequestRefused from every method says what is wrong."""

    def __init__(self, config: FakeConfig) -> None:
        self._config = config
        self._script = Script.read(config.script) if config.script else Script()

    def chat(self, request: ChatRequest, request_id: str | None, session: str | None) -> ChatAnswer:
        """The answer-to-be of a chat request; the two headers that vLLM reads come beside it."""
        model, engine = self._conversation(request, session)
        return ChatAnswer(
            id=_reply_id("chatcmpl", request_id or request.request_id),
            model=model,
            request=engine,
            continuous_usage=_continuous_usage(request),
            token_ids_wanted=bool(request.return_token_ids),
        )

    def completion(
        self, request: CompletionRequest, request_id: str | None, session: str | None
    ) -> CompletionAnswer:
        """The answer-to-be of a completion request."""
        model = check_model(request.model, self._config.served)
        prompt = completion_tokens(request.prompt)
        text = request.prompt if isinstance(request.prompt, str) else ""
        return CompletionAnswer(
            id=_reply_id("cmpl", request_id or request.request_id),
            model=model,
            request=self._engine_request(request, prompt, text, session),
            continuous_usage=_continuous_usage(request),
            token_ids_wanted=bool(request.return_token_ids),
            echo=text if request.echo else "",
        )

    def messages(
        self, request: MessagesRequest, request_id: str | None, session: str | None
    ) -> MessagesAnswer:
        """The answer-to-be of a Messages request."""
        if request.max_tokens is None:
            raise invalid("max_tokens: Field required", "max_tokens")
        model, engine = self._conversation(request.as_chat(), session)
        return MessagesAnswer(id=_reply_id("chatcmpl", request_id), model=model, request=engine)

    def responses(self, request: ResponsesRequest, session: str | None) -> ResponsesAnswer:
        """The answer-to-be of a Responses request; its id is never the request's header's."""
        model, engine = self._conversation(request.as_chat(), session)
        name = request.request_id or f"resp_{uuid.uuid4().hex}"
        return ResponsesAnswer(id=name, model=model, request=engine, asked=request)

    def _conversation(self, request: ChatRequest, session: str | None) -> tuple[str, EngineRequest]:
        """The model's name and the engine's request for a chat."""
        model = check_model(request.model, self._config.served)
        if not request.messages:
            raise invalid("messages: at least one message is needed", "messages")
        if request.continue_final_message and request.add_generation_prompt:
            both = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            raise invalid(both, "continue_final_message")
        prompt = chat_tokens(request.messages, request.tools or (), goes_on=request.continue_final_message)
        said: Sequence[int] = tokenise(request.said or "")
        if given := request.prompt_token_ids:
            prompt, said = given, given[len(prompt) :]
        return model, self._engine_request(request, prompt, _last_said(request), session, said)

    def _engine_request(
        self,
        request: GenerationRequest,
        prompt: Sequence[int],
        last_message: str,
        session: str | None,
        said: Sequence[int] = (),
    ) -> EngineRequest:
        """`said`: tokens of the reply, said by another engine."""
        budget = reply_budget(request, len(prompt), self._config.shape.max_model_len_tokens)
        scripted = self._script.next_reply(last_message)
        if scripted is not None:
            scripted = after(scripted, said)
            natural: int | None = len(scripted)
            reply = endless(scripted, self._config.seed, prompt)
        else:
            natural = self._config.reply_tokens or (
                DEFAULT_REPLY_TOKENS if request.wanted_tokens is None else None
            )
            if natural is not None and said:
                natural = max(0, natural - len(said))
            opens = not (said or isinstance(request, CompletionRequest))
            reply = invented(self._config.seed, prompt, opens=opens)
        return EngineRequest(
            id=uuid.uuid4().hex,
            tokens=list(prompt),
            reply=islice(reply, budget),
            max_tokens=budget,
            min_tokens=request.min_tokens,
            natural_tokens=natural,
            ignore_eos=request.ignore_eos,
            stops=StopWatch(request.stops, keep_stop=request.include_stop_str_in_output),
            stop_token_ids=frozenset(request.stop_token_ids or ()),
            session=request.session(session),
            salt=request.cache_salt,
            priority=request.priority,
        )


def _last_said(request: ChatRequest) -> str:
    """The text that a script answers: of the last message that is not the system's, which Claude Code puts last."""
    said = [m for m in request.messages if m.get("role") not in ("system", "developer")]
    said = said[:-1] if request.continue_final_message else said
    return content_text((said or request.messages)[-1].get("content"))


def _reply_id(prefix: str, given: str | None) -> str:
    return f"{prefix}-{given or uuid.uuid4().hex}"


def _continuous_usage(request: GenerationRequest) -> bool:
    options = request.stream_options
    return options is not None and bool(options.include_usage) and bool(options.continuous_usage_stats)
