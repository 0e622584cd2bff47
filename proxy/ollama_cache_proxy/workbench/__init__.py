"""What `bench`, `plan`, `warm`, `quantize`, `export` and `import` decide, pure: no I/O, no clock, no randomness.

- `spread`: median, minimum and maximum; `sheet`: a table as Markdown; `speedup`: the results of `bench`
- `capacity`: what a load takes, for `plan`; `coefficients`: what was measured for it
- `bench_questions`: the requests that `bench` and `quantize` send
- `chunks`: texts cut from files; `requests`: the requests that `warm` sends, and their outcomes;
  `request_logs`: those that were logged or recorded
- `pack_form`: the form of a pack
- `levels`: quantizations, their names and sizes; `fidelity`: how similar two models are; `verdict`: which to use
- `related`: whether two models can be quantizations of one; `shown`: what `/api/show` tells of a model;
  `told_rows`: what lists tell
"""
