"""Hit rates of realistic requests, derived from Git histories: `make hit-rates REPO=…`.

The histories of public repositories stand for real work. The map:

- `history`: commits and files of a repository; `languages`: where functions start and end; `chunks`: rules that cut
  files
- `requests`: what an editor, a reader and a linter's user would have asked at each commit, and its form in JSONL;
  `diagnostics`: the output of the linter
- `rates`: which of them a cache would have answered, computed
- `costs`: the assumed times of Ollama; `ollama`: a simulator with those times; `replay`: the same requests through a
  real proxy and a real store
- `figures`: all figures of one repository; `report`: tables and pictures
"""
