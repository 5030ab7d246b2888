"""What packs files: zip, gzip, tar."""
