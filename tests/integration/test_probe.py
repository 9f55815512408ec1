def test_probe(measure):
    import time
    t=time.time()
    job=measure()
    print(time.time()-t)
    for s in ("cache-acts","ablate","effects"):
        r=job.run.record(s); print(s, r.seconds, r.facts)
