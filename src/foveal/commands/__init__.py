"""The public function of each verb, from the audit of a data set to the report."""
