"""How much a wrong line of policy/ and core/ is noticed: mutants, of which each has to die by a test.

mutations.py       the ways in which a line may be wrong, pure, over `ast`
tests_of.py        which tests are about a module
trial.py           one mutant: its tests run in a forked process, until one fails or its time is up
__main__.py        draws mutants by seed, tries them, and prints the survivors: `make mutants`
equivalent.toml    mutants that no test can notice, each with the reason
"""
