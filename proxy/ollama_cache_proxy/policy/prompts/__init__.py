"""What of a prompt Ollama has worked on before, by fingerprints alone, and what keeps it from being reused.

prompt_parts.py    the parts of a prompt, in the order in which templates render them
prompt_prints.py   fingerprints of a part's blocks, and how many two parts share
prompt_memory.py   the latest prompts of a model: how much of a new one is known, and where it first differs
prompt_places.py   the JSON path of a place, without names that a client chose
prompt_shapes.py   what changes there: a number, a date, an id
prompt_losses.py   what it all costs, by client and place, and what to do
"""
