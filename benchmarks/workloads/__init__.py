"""How often requests that work really makes are known already: `make hit-rates REPO=…`.

The histories of Git repositories are the work, since nobody here wrote them. The map:

- `history`: commits and files of a repository; `languages`: where functions begin and end; `chunks`: rules that cut
  files
- `requests`: what an editor, a reader and a linter's user would have asked at each commit, and its form in JSONL;
  `diagnostics`: what the linter says
- `rates`: what a cache would have known of that, by arithmetic alone
- `costs`: how long Ollama is said to need; `ollama`: the simulator that needs so long; `replay`: the same requests
  through a real proxy and a real store
- `figures`: all of one repository; `report`: tables and pictures of it
"""
