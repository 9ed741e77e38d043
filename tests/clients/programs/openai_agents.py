"""The OpenAI Agents SDK, which speaks the Responses API: a tool, a hand-over to another agent, stored state."""

import asyncio
import json

from agents import Agent, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"openai-agents: sunny in {city}"


async def main() -> None:
    agent = Agent(name="forecaster", instructions="Be short.", model="m", tools=[weather])
    first = await Runner.run(agent, "openai-agents: weather in Bern?")
    second = await Runner.run(
        agent, "openai-agents: and tomorrow?", previous_response_id=first.last_response_id
    )
    print(
        json.dumps({"answers": [first.final_output, second.final_output], "calls": len(first.raw_responses)})
    )


asyncio.run(main())
