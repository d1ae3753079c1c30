"""Measurements: our program beside other Python servers, behind the same web server."""
