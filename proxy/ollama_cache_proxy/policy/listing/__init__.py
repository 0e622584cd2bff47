"""Lists of texts to embed: reading the responses to them in any JSON form, storing their vectors, and joining those.

A response is read by `list_reading`: in Ollama's own form by `own_form`, which is the fast way, in any other by
`any_form`. Its vectors become `items`, which `joining` makes a response of; `list_plan` decides what is asked for.
"""
