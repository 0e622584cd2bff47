"""What the commands `bench`, `warm` and `quantize` compute and decide, pure: no I/O, no clock, no chance.

- `spread`: several measurements in three numbers; `sheet`: a table as Markdown
- `questions`: what is asked to measure
- `chunks`: files cut into texts; `requests`: what `warm` asks
- `levels`: quantizations, their names and sizes; `fidelity`: how alike two models are; `verdict`: which to take
"""
