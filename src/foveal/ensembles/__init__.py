"""Several trained models that predict as one."""
