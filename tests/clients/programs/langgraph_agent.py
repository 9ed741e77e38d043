"""A ReAct agent of LangGraph over langchain-openai."""

import json

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"langgraph: sunny in {city}"


agent = create_react_agent(ChatOpenAI(model="m"), [weather])
state = agent.invoke({"messages": [("user", "langgraph: weather in Bern?")]})
print(json.dumps({"answer": state["messages"][-1].content, "messages": len(state["messages"])}))
