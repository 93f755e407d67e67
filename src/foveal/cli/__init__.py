"""The command line: each file parses one verb, calls its public function, prints."""
