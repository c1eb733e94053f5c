"""What is private: training data, labelled chats and the evaluation of guards."""
