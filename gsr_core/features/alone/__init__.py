"""Scripts that go with a merged network and open it by its own library; copied, never imported."""
