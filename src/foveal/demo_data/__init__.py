"""Made-up scans whose anatomy is known, to try Foveal without any data."""
