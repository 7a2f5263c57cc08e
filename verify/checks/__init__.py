"""What users give: checked in one place, in modes of torch that bounds can be computed in."""
