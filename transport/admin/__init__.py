"""The administration's HTTP surface: `/admin/...`, for operators."""
