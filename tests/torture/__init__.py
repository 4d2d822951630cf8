"""The campaign of faults and bad input: `make torture`, or its short part in pytest.

`damage` spoils bytes and texts, `inputs` gives them to the readers and the command line,
`matrices` holds intervals to truths, `bombs` are small files that ask for gigabytes, `room` takes
disk and permissions away, `pages` opens reports in a browser, `kills` ends and resumes real
processes. Each trial is accepted, refused with one line, or a fault; `campaign` counts.
"""
