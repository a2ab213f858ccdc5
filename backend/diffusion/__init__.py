"""What an image should look like: schedules, denoisers, priors, and D_phi. It never sees a mesh."""
