"""Architecture search: bilevel optimisation of a supernet's weights and architecture parameters."""

from robust_nas.search.run import SearchResult, run_search
