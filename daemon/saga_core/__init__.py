"""What saga decides, and nothing of what it does.

Two pure machines, `Head` and `Node`, with the words they are built from. Nothing in this
package reads a clock, opens a socket, draws a random number or looks at the environment:
`now` comes in with every event and effects go out as values.
"""
