from tests.gradients.conftest import bundle, head, workspace

__all__ = ["bundle", "head", "workspace"]
