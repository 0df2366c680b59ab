"""The main job on real files, with real faults, and the proof that nothing was lost.

`failbetter.demo.run.run_demo` runs it; `tasks` is what a user of failbetter would write.
"""
