"""Operations on volumes: files, cropping, normalisation, resampling, tiles, storage; each map has an exact inverse."""
