"""Does a search that maximises certified robustness find architectures that certify?"""
