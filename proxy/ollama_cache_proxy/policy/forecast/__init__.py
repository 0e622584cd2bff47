"""What other settings would have given, from a sample of the keys of real requests.

    ghosts          the sampled keys, and under which settings each would be known now
    distances       how many bytes were asked for since a key was, by which a smaller store is judged
    traffic_sample  takes requests in, and counts what each setting would have answered
    outlook         the counts as rates and seconds, and one sentence of advice
    line_numbers    a text without its line numbers
    alternatives    the keys of a request if clients were alike, and what a bypassed one would need

A key is in the sample or it is not, by a hash (spatial sampling), so that of a key in the sample every request is seen.
"""
