"""Parts of the localization benchmark."""
