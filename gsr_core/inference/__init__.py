"""Groups without group labels: each inference is a frozen record with one method, `infer(problem)`.

What it gives replaces the group columns of a problem, so that any group-aware method can follow.
"""

WHERE = {
    "grasp": "gsr_core.inference.grasp:GraspInference",
    "feasp": "gsr_core.inference.grasp:FeaspInference",
    "spare": "gsr_core.inference.spare:SpareInference",
    "eiil": "gsr_core.inference.eiil:EIILInference",
    "george": "gsr_core.inference.george:GeorgeInference",
    "hdbscan": "gsr_core.inference.hdbscan:HdbscanInference",
    "kmeans": "gsr_core.inference.kmeans:KmeansInference",
    "xrm": "gsr_core.inference.xrm:XRMInference",
}
"""Where the class of each inference is. SSA is left out, since it reads group labels. They stand
here so that the command line lists them without torch."""
