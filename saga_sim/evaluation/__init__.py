"""`saga eval`: all profiles over the same arrivals, many sets and loads, with targets and a verdict.

`plan` lists the cells, `cells` runs one, `crew` many at a time, `store` keeps them, `summary` folds them, `targets` judges,
`markdown` and `page` write.
"""
